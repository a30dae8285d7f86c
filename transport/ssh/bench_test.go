//go:build unix

package ssh_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/ssh"
	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
)

// The benchmarks move one file over real sshd on loopback, by turns with scp and
// with this package, and report medians as ratios. Both ends share the processors
// of this machine. The time of the processor is that of client and server
// together; the server's is what sshd has reaped.
//
//	go test ./transport/ssh -run '^$' -bench . -benchtime 5x

const benchSize = 512 << 20

// bench is a server, and a file to move.
type bench struct {
	b    *testing.B
	s    *sshd
	dir  string
	file transport.File
	src  string
	scp  []string
}

func newBench(b *testing.B, size int64, config ...string) *bench {
	b.Helper()
	scp := realtest.Need(b, "scp")
	dir := ramDir(b)
	x := &bench{b: b, s: startSSHD(b, config...), dir: dir, src: filepath.Join(dir, "source")}
	f, err := os.Create(x.src)
	require.NoError(b, err)
	_, err = io.CopyN(f, rand.Reader, size)
	require.NoError(b, err)
	require.NoError(b, f.Close())
	x.file, err = transport.DiskFile(b.Context(), "file", x.src)
	require.NoError(b, err)
	host, port, _ := strings.Cut(x.s.addr, ":")
	key := writeFile(b, filepath.Join(dir, "key"), string(x.s.pem), 0o600)
	known := writeFile(b, filepath.Join(dir, "known"), fmt.Sprintf("[%s]:%s %s\n", host, port, authorized(x.s.host)), 0o600)
	x.scp = []string{scp, "-q", "-P", port, "-i", key, "-o", "UserKnownHostsFile=" + known, "-o", "BatchMode=yes", "-F", "none"}
	return x
}

// ramDir is a directory in memory, if the system has that: disks are not measured.
func ramDir(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "rmbench")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { require.NoError(b, os.RemoveAll(dir)) })
	return dir
}

func (x *bench) dial(opts ssh.Options) transport.Conn {
	ep := x.s.endpoint(x.b)
	opts.Signers = []xssh.Signer{x.s.key}
	ep.Options = opts
	conn, err := (&ssh.Transport{}).Dial(x.b.Context(), ep)
	require.NoError(x.b, err)
	return conn
}

// byScp copies to or from the target; a name there begins with a colon.
func (x *bench) byScp(from, to string, args ...string) func() {
	return func() {
		at := x.s.endpoint(x.b).Credentials.User + "@127.0.0.1:"
		words := append(slices.Clone(x.scp[1:]), args...)
		for _, name := range []string{from, to} {
			words = append(words, strings.Replace(name, ":", at, 1))
		}
		out, err := exec.CommandContext(x.b.Context(), x.scp[0], words...).CombinedOutput()
		require.NoError(x.b, err, "%s", out)
	}
}

const gcm = "-caes128-gcm@openssh.com"

// bySSH runs a command on the target with the client of OpenSSH.
func (x *bench) bySSH(stdin io.Reader, stdout io.Writer, args ...string) {
	words := slices.Clone(x.scp[2:]) // without -q
	words[0] = "-p"
	words = append(append(words, "127.0.0.1"), args...)
	cmd := exec.CommandContext(x.b.Context(), realtest.Need(x.b, "ssh"), words...)
	cmd.Stdin, cmd.Stdout = stdin, stdout
	require.NoError(x.b, cmd.Run())
}

// put is a whole Put, with login and with the check of what arrived. When it is
// all there, arrived is set to how long that took.
func (x *bench) put(opts ssh.Options, arrived *time.Duration) func() {
	return func() {
		begin := time.Now()
		conn := x.dial(opts)
		name := filepath.Join(x.dir, "put")
		_, err := transport.Put(x.b.Context(), conn, name, x.file, transport.PutOptions{Progress: func(n int64) {
			if n == x.file.Size && *arrived == 0 {
				*arrived = time.Since(begin)
			}
		}})
		require.NoError(x.b, err)
		require.NoError(x.b, conn.Close(x.b.Context()))
		require.NoError(x.b, os.Remove(name))
	}
}

// cost is what something took.
type cost struct{ wall, cpu time.Duration }

func (x *bench) measure(f func()) cost {
	cpu, begin := x.cpu(), time.Now()
	f()
	c := cost{wall: time.Since(begin)}
	x.idle()
	c.cpu = x.cpu() - cpu
	return c
}

// idle waits until sshd has reaped what served the connections.
func (x *bench) idle() {
	require.Eventually(x.b, func() bool {
		return len(children(x.s.pid)) == 0
	}, 20*time.Second, 5*time.Millisecond)
}

func children(pid int) []byte {
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	return bytes.TrimSpace(out)
}

// cpu is the time of the processor that this process, its children and sshd with
// its children have taken.
func (x *bench) cpu() time.Duration {
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		require.NoError(x.b, syscall.Getrusage(who, &u))
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", x.s.pid))
	if err != nil {
		realtest.Missing(x.b, "/proc, for the time of the server's processor")
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime (proc(5), 14 to 17)
		ticks, err := strconv.ParseInt(fields[i], 10, 64)
		require.NoError(x.b, err)
		sum += time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on Linux
	}
	return sum
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2])
}

// compare runs ours and the peers by turns, and reports how much faster ours is,
// and how much of a peer's processor time it takes.
func (x *bench) compare(ours func(), peers map[string]func(), more func()) {
	walls, cpus := map[string][]time.Duration{}, map[string][]time.Duration{}
	note := func(name string, f func()) {
		c := x.measure(f)
		walls[name], cpus[name] = append(walls[name], c.wall), append(cpus[name], c.cpu)
	}
	x.b.SetBytes(x.file.Size)
	for x.b.Loop() {
		note("", ours)
		if more != nil {
			more()
		}
		x.b.StopTimer()
		for name, f := range peers {
			note(name, f)
		}
		x.b.StartTimer()
	}
	for name := range peers {
		x.b.ReportMetric(median(walls[name])/median(walls[""]), "speedup-vs-"+name)
		x.b.ReportMetric(median(cpus[""])/median(cpus[name]), "cpu-vs-"+name)
	}
	perGiB := float64(1<<30) / float64(x.file.Size) / float64(time.Second)
	x.b.ReportMetric(median(cpus[""])*perGiB, "cpu-s/GiB")
}

// BenchmarkUpload is a whole Put against scp and "ssh cat", which check nothing, and
// against scp and sha256sum, which do what a Put does. "sent" is how long it took until all
// bytes were on the target, so that it compares with scp alone.
func BenchmarkUpload(b *testing.B) {
	for _, tt := range []struct {
		name string
		opts ssh.Options
	}{{"two connections", ssh.Options{}}, {"one connection", ssh.Options{OneConnection: true}}} {
		b.Run(tt.name, func(b *testing.B) {
			x := newBench(b, benchSize)
			to := filepath.Join(x.dir, "scp")
			scp := x.byScp(x.src, ":"+to)
			var arrived time.Duration
			var sent, alone []time.Duration
			x.compare(x.put(tt.opts, &arrived), map[string]func(){
				"scp": func() {
					begin := time.Now()
					scp()
					alone = append(alone, time.Since(begin))
				},
				"scp-gcm": x.byScp(x.src, ":"+to, gcm),
				"ssh-cat-gcm": func() {
					f, err := os.Open(x.src)
					require.NoError(b, err)
					defer f.Close()
					x.bySSH(f, nil, gcm, "cat >"+to)
				},
				"scp-and-sha256sum": func() {
					scp()
					var out strings.Builder
					x.bySSH(nil, &out, "sha256sum "+to)
					require.Contains(b, out.String(), x.file.Digest())
				},
			}, func() {
				sent = append(sent, arrived)
				arrived = 0
			})
			b.ReportMetric(median(alone)/median(sent), "sent-speedup-vs-scp")
		})
	}
}

// BenchmarkUploadSFTP is a Put to a server that has SFTP alone. It reads the file
// back, for want of another way to check it.
func BenchmarkUploadSFTP(b *testing.B) {
	x := newBench(b, benchSize, "Match User *", "ForceCommand internal-sftp")
	to := filepath.Join(x.dir, "scp")
	scp := x.byScp(x.src, ":"+to)
	var arrived time.Duration
	var sent, alone []time.Duration
	x.compare(x.put(ssh.Options{}, &arrived), map[string]func(){
		"scp": func() {
			begin := time.Now()
			scp()
			alone = append(alone, time.Since(begin))
		},
		"scp-gcm":  x.byScp(x.src, ":"+to, gcm),
		"scp-both": func() { scp(); x.byScp(":"+to, to+".back")() },
	}, func() {
		sent = append(sent, arrived)
		arrived = 0
	})
	b.ReportMetric(median(alone)/median(sent), "sent-speedup-vs-scp")
}

// BenchmarkDownload is a whole Get. "ssh cat" is what OpenSSH itself makes of one
// channel.
func BenchmarkDownload(b *testing.B) {
	x := newBench(b, benchSize)
	get := func() {
		conn := x.dial(ssh.Options{})
		out, err := os.Create(filepath.Join(x.dir, "get"))
		require.NoError(b, err)
		n, err := transport.Get(b.Context(), conn, x.src, out, transport.GetOptions{})
		require.NoError(b, err)
		require.Equal(b, x.file.Size, n)
		require.NoError(b, out.Close())
		require.NoError(b, conn.Close(b.Context()))
		require.NoError(b, os.Remove(out.Name()))
	}
	x.compare(get, map[string]func(){
		"scp":     x.byScp(":"+x.src, filepath.Join(x.dir, "scp")),
		"scp-gcm": x.byScp(":"+x.src, filepath.Join(x.dir, "scp"), gcm),
		"ssh-cat-gcm": func() {
			f, err := os.Create(filepath.Join(x.dir, "cat"))
			require.NoError(b, err)
			defer f.Close()
			x.bySSH(nil, f, gcm, "cat "+x.src)
		},
	}, nil)
}

// BenchmarkPeakHeap moves 1 GiB there and back and reports the largest heap that
// was seen, which must stay under 32 MiB.
func BenchmarkPeakHeap(b *testing.B) {
	const limit = 32 << 20
	for _, tt := range []struct {
		name   string
		config []string
	}{{"shell", nil}, {"sftp", []string{"Match User *", "ForceCommand internal-sftp"}}} {
		b.Run(tt.name, func(b *testing.B) {
			x := newBench(b, 1<<30, tt.config...)
			var peak uint64
			for b.Loop() {
				heap := watchHeap()
				conn := x.dial(ssh.Options{})
				name := filepath.Join(x.dir, "put")
				_, err := transport.Put(b.Context(), conn, name, x.file, transport.PutOptions{})
				require.NoError(b, err)
				n, err := transport.Get(b.Context(), conn, name, io.Discard, transport.GetOptions{})
				require.NoError(b, err)
				require.Equal(b, x.file.Size, n)
				require.NoError(b, conn.Close(context.Background()))
				peak = max(peak, heap())
				require.NoError(b, os.Remove(name))
			}
			b.ReportMetric(float64(peak)/(1<<20), "peak-heap-MiB")
			require.Less(b, peak, uint64(limit))
		})
	}
}

// watchHeap samples the bytes in heap objects, dead ones included, until the
// function that it returns is called for the peak.
func watchHeap() func() uint64 {
	var peak atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(sample)
			peak.Store(max(peak.Load(), sample[0].Value.Uint64()))
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	return func() uint64 {
		close(stop)
		<-done
		return peak.Load()
	}
}
