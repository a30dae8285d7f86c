package depot_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

// memoryFile makes a file of the given size in memory and returns a path under
// which other processes find it as long as this one lives: nothing is left behind.
func memoryFile(t testing.TB, size int64) string {
	t.Helper()
	fd, err := unix.MemfdCreate("payload", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "payload")
	t.Cleanup(func() { f.Close() })
	block := content(1 << 20)
	for n := int64(0); n < size; n += int64(len(block)) {
		_, err := f.Write(block)
		require.NoError(t, err)
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
}

// startNginx serves a file as /payload with one process of nginx, on a port that
// was free; it is killed with this process.
func startNginx(t testing.TB, file, cert, key string) (cmd *exec.Cmd, addr string) {
	t.Helper()
	nginx := realtest.Need(t, "nginx")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr = ln.Addr().String()
	require.NoError(t, ln.Close())
	tmp := t.TempDir()
	listen := addr
	if cert != "" {
		listen += fmt.Sprintf(` ssl; ssl_certificate %s; ssl_certificate_key %s; ssl_protocols TLSv1.3;
	ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256`, cert, key)
	}
	config := fmt.Sprintf(`daemon off; master_process off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 1024; }
http {
  access_log off; sendfile on; default_type application/octet-stream;
  client_body_temp_path %[1]s/1; proxy_temp_path %[1]s/2; fastcgi_temp_path %[1]s/3; uwsgi_temp_path %[1]s/4; scgi_temp_path %[1]s/5;
  server { listen %[2]s; location = /payload { alias %[3]s; } }
}
`, tmp, listen, file)
	conf := filepath.Join(tmp, "nginx.conf")
	require.NoError(t, os.WriteFile(conf, []byte(config), 0o600))
	cmd = exec.Command(nginx, "-p", tmp, "-c", conf, "-e", filepath.Join(tmp, "error.log"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	// The kernel kills it when the thread ends that started it.
	started, over := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		<-over
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		close(over)
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		c.Close()
		return true
	}, patience, 10*tick)
	return cmd, addr
}

// cpu returns the processor time that a process has used (proc(5), stat).
func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		require.NoError(t, err)
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100) // USER_HZ
}

// measurement is what a round of fetches took.
type measurement struct{ cpu, wall time.Duration }

func median[T int | float64 | time.Duration](list []T) T {
	list = slices.Clone(list)
	slices.Sort(list)
	return list[len(list)/2]
}

// BenchmarkDepotVsNginx compares the depot with nginx: 8 clients that fetch 1 GiB
// each and throw it away. The servers take turns, each in a process of its own
// whose processor time is measured alone. nginx has one worker, as the depot has
// one process; that can use all processors, so only the ratio of processor times
// tells much. Below 1 the depot is cheaper, above 1 in speed it is faster.
func BenchmarkDepotVsNginx(b *testing.B) {
	const clients, size = 8, 1 << 30
	for _, scheme := range []string{"http", "https"} {
		b.Run(scheme, func(b *testing.B) {
			payload := memoryFile(b, size)
			j := job{File: payload}
			var config *tls.Config
			if scheme == "https" {
				config = &tls.Config{ServerName: "127.0.0.1"}
				config.RootCAs, j.Cert, j.Key = certificateFiles(b)
			}
			ours, ourAddr, ourPath, _ := startJob(b, j)
			nginx, nginxAddr := startNginx(b, payload, j.Cert, j.Key)
			round := func(cmd *exec.Cmd, addr, path string) measurement {
				before, start := cpu(b, cmd.Process.Pid), time.Now()
				var wg sync.WaitGroup
				for range clients {
					wg.Go(func() {
						n, err := fetch(addr, path, config, io.Discard, make([]byte, 256<<10))
						if err != nil || n != size {
							b.Errorf("%d bytes, %v", n, err)
						}
					})
				}
				wg.Wait()
				return measurement{cpu(b, cmd.Process.Pid) - before, time.Since(start)}
			}
			var d, n []time.Duration
			var ratios, speeds []float64
			for b.Loop() {
				x := round(ours, ourAddr, ourPath)
				y := round(nginx, nginxAddr, "/payload")
				d, n = append(d, x.cpu), append(n, y.cpu)
				ratios = append(ratios, x.cpu.Seconds()/y.cpu.Seconds())
				speeds = append(speeds, y.wall.Seconds()/x.wall.Seconds())
			}
			const gib = clients * size >> 30
			b.ReportMetric(median(ratios), "cpu-vs-nginx")
			b.ReportMetric(median(speeds), "speed-vs-nginx")
			b.ReportMetric(median(d).Seconds()/gib, "depot-cpu-s/GiB")
			b.ReportMetric(median(n).Seconds()/gib, "nginx-cpu-s/GiB")
		})
	}
}
