package local_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
	"github.com/stretchr/testify/require"
)

const large = 4 << 20 // bytes

func requireFile(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(onDisk(name))
	require.NoError(t, err)
	require.Equal(t, len(want), len(got))
	require.True(t, string(want) == string(got), "other content")
}

// TestPutIsContinued is what the conformance suite asks where there is a line to
// cut.
func TestPutIsContinued(t *testing.T) {
	conn := dial(t)
	data := content(large)
	file := transport.BytesFile("f", data)

	dir := tempDir(t)
	require.NoError(t, os.WriteFile(onDisk(dir+"/f"), []byte("old"), 0o600))
	part := interruptedPut(t, conn, dir+"/f", data)
	requireFile(t, dir+"/f", []byte("old"))
	fi, err := os.Stat(onDisk(part))
	require.NoError(t, err)
	var progress []int64
	res, err := transport.Put(t.Context(), conn, dir+"/f", file, transport.PutOptions{Progress: func(n int64) { progress = append(progress, n) }})
	require.NoError(t, err)
	require.Equal(t, fi.Size(), res.Kept)
	require.EqualValues(t, large/2, res.Kept)
	require.EqualValues(t, large, res.Kept+res.Sent)
	require.Equal(t, res.Kept, progress[0], "what is there already is not counted as moving")
	requireFile(t, dir+"/f", data)
	require.Equal(t, []string{"f"}, names(t, dir))

	// The beginning of one content is not continued with another.
	interruptedPut(t, conn, dir+"/g", data)
	other := append([]byte("other"), data[5:]...)
	res, err = transport.Put(t.Context(), conn, dir+"/g", transport.BytesFile("f", other), transport.PutOptions{})
	require.NoError(t, err)
	require.Zero(t, res.Kept)
	requireFile(t, dir+"/g", other)
}

// TestPutFindsItDone: somebody else brought the file in the meantime.
func TestPutFindsItDone(t *testing.T) {
	conn := dial(t)
	data := content(large)
	dir := tempDir(t)
	interruptedPut(t, conn, dir+"/f", data)
	require.NoError(t, os.WriteFile(onDisk(dir+"/f"), data, 0o600))
	res, err := transport.Put(t.Context(), conn, dir+"/f", transport.BytesFile("f", data), transport.PutOptions{})
	require.NoError(t, err)
	require.EqualValues(t, large, res.Kept)
	require.Zero(t, res.Sent)
	require.Equal(t, []string{"f"}, names(t, dir))
}

// TestPutMendsWhatIsWrong: what an interrupted Put left may be damaged, as after
// a power failure. It does not harm the file, nor keep it from coming about.
func TestPutMendsWhatIsWrong(t *testing.T) {
	data := content(large)
	for what, damage := range map[string]func(t *testing.T, part string){
		"a hole": func(t *testing.T, part string) {
			f, err := os.OpenFile(part, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt(make([]byte, 5000), 70_000)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		},
		"too long": func(t *testing.T, part string) { require.NoError(t, os.Truncate(part, large+1)) },
		"not writable": func(t *testing.T, part string) {
			require.NoError(t, os.Truncate(part, 0))
			require.NoError(t, os.Chmod(part, 0o400))
		},
		"a directory": func(t *testing.T, part string) {
			require.NoError(t, os.Remove(part))
			require.NoError(t, os.Mkdir(part, 0o700))
		},
	} {
		t.Run(what, func(t *testing.T) {
			conn := dial(t)
			dir := tempDir(t)
			damage(t, onDisk(interruptedPut(t, conn, dir+"/f", data)))
			res, err := transport.Put(t.Context(), conn, dir+"/f", transport.BytesFile("f", data), transport.PutOptions{})
			require.NoError(t, err)
			require.Zero(t, res.Kept)
			require.EqualValues(t, large, res.Sent)
			requireFile(t, dir+"/f", data)
			require.Equal(t, []string{"f"}, names(t, dir))
		})
	}
}

// TestPutTwiceAtOnce: two writers of the same partial file, of two connections,
// do not get into each other's way.
func TestPutTwiceAtOnce(t *testing.T) {
	data := content(large)
	for range 20 {
		dir := tempDir(t)
		errs := make(chan error, 4)
		for range cap(errs) {
			conn := dial(t)
			go func() {
				_, err := transport.Put(t.Context(), conn, dir+"/f", transport.BytesFile("f", data), transport.PutOptions{Mode: 0o755})
				errs <- err
			}()
		}
		for range cap(errs) {
			require.NoError(t, <-errs)
		}
		requireFile(t, dir+"/f", data)
		require.Equal(t, []string{"f"}, names(t, dir))
	}
}

func TestLongName(t *testing.T) {
	conn := dial(t)
	dir := tempDir(t)
	name := strings.Repeat("n", 255)
	_, err := transport.Put(t.Context(), conn, dir+"/"+name, transport.BytesFile("f", []byte("x")), transport.PutOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{name}, names(t, dir))
}

// putHalf writes half of the file that it is given and waits to be killed.
func putHalf(args []string) error {
	conn, err := (&local.Transport{}).Dial(ctx(), transport.Endpoint{})
	if err != nil {
		return err
	}
	_, err = transport.Put(ctx(), conn, args[0], pausing("f", content(large), large/2, func() {
		fmt.Println("half")
		time.Sleep(10 * time.Minute)
	}), transport.PutOptions{})
	return err
}

// TestPutAfterKill: the partial file of a process that was killed is continued by
// the next one.
func TestPutAfterKill(t *testing.T) {
	dir := tempDir(t)
	cmd := exec.Command(os.Args[0], helper("put", dir+"/f")[1:]...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "half\n", line)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Len(t, names(t, dir), 1)
	data := content(large)
	res, err := transport.Put(t.Context(), dial(t), dir+"/f", transport.BytesFile("f", data), transport.PutOptions{})
	require.NoError(t, err)
	require.EqualValues(t, large/2, res.Kept)
	requireFile(t, dir+"/f", data)
	require.Equal(t, []string{"f"}, names(t, dir))
}
