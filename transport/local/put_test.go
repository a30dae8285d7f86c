package local_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
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

// hanging is a file that stops after half of its content, which is not what its
// digest says, until it may go on.
func hanging(data []byte, half chan<- struct{}, on <-chan struct{}) transport.File {
	bad := bytes.Clone(data)
	bad[len(bad)-1]++
	f := pausing("f", bad, len(bad)/2, func() {
		close(half)
		<-on
	})
	f.SHA256 = sha256.Sum256(data)
	return f
}

// TestPutKeepsOthersOut: a Put whose source is not what it should be does not
// change what another one has verified, though both write the same partial file.
func TestPutKeepsOthersOut(t *testing.T) {
	conn := dial(t)
	dir := tempDir(t)
	data := content(large)
	half, on := make(chan struct{}), make(chan struct{})
	put := func(conn transport.Conn, f transport.File) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := transport.Put(t.Context(), conn, dir+"/f", f, transport.PutOptions{})
			done <- err
		}()
		return done
	}
	bad := put(conn, hanging(data, half, on))
	<-half
	good := put(dial(t), transport.BytesFile("f", data))
	var err error
	select {
	case err = <-good:
		close(on)
	case <-time.After(500 * time.Millisecond): // as it should be: it waits
		close(on)
		err = <-good
	}
	require.NoError(t, err)
	require.ErrorIs(t, <-bad, transport.ErrIntegrity)
	requireFile(t, dir+"/f", data)
	require.Equal(t, []string{"f"}, names(t, dir))
}

// TestPutDoesNotWaitForTheDead: a Put whose context has ended keeps nobody waiting,
// though its source still hangs.
func TestPutDoesNotWaitForTheDead(t *testing.T) {
	conn := dial(t)
	dir := tempDir(t)
	data := content(large)
	half, on := make(chan struct{}), make(chan struct{})
	defer close(on)
	ctx, cancel := context.WithCancel(t.Context())
	hung := make(chan error, 1)
	go func() {
		_, err := transport.Put(ctx, conn, dir+"/f", hanging(data, half, on), transport.PutOptions{})
		hung <- err
	}()
	<-half
	cancel()
	soon, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	res, err := transport.Put(soon, conn, dir+"/f", transport.BytesFile("f", data), transport.PutOptions{})
	require.NoError(t, err)
	require.EqualValues(t, large/2, res.Kept)
	require.ErrorIs(t, <-hung, context.Canceled)
	requireFile(t, dir+"/f", data)
}

// TestPutAfterManyBadOnes: those that fail do not use up the tries of the one that
// does not.
func TestPutAfterManyBadOnes(t *testing.T) {
	conn := dial(t)
	dir := tempDir(t)
	data := content(1 << 20)
	bad := transport.BytesFile("f", append([]byte("bad"), data[3:]...))
	bad.SHA256 = sha256.Sum256(data)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { _, _ = transport.Put(t.Context(), conn, dir+"/f", bad, transport.PutOptions{}) })
	}
	_, err := transport.Put(t.Context(), conn, dir+"/f", transport.BytesFile("f", data), transport.PutOptions{})
	require.NoError(t, err)
	wg.Wait()
	requireFile(t, dir+"/f", data)
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
