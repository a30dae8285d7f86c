package redfishtest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// ilorest is HPE's own client, with a cache of its own.
type ilorest struct {
	t     *testing.T
	bin   string
	cache string
	s     *redfishtest.Server
}

func newIlorest(t *testing.T, s *redfishtest.Server) *ilorest {
	return &ilorest{t: t, bin: realtest.Need(t, "ilorest"), cache: t.TempDir(), s: s}
}

// run runs a command of the client. It waits long: under load the client takes half
// a minute to start.
func (i *ilorest) run(args ...string) (string, error) {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), 9*time.Minute)
	defer cancel()
	args = append([]string{"--nologo", "--cache-dir=" + i.cache}, args...)
	cmd := exec.CommandContext(ctx, i.bin, args...)
	cmd.Dir = i.cache
	// The client lets these decide whether it checks certificates; and it goes
	// through proxies.
	drop := []string{"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"}
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(drop, strings.ToUpper(name))
	}), "HOME="+i.cache, "NO_PROXY=*")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must runs a command that logs in, and must go well.
func (i *ilorest) must(args ...string) string {
	i.t.Helper()
	return i.plain(append(args, "--url="+i.s.Addr(), "-u", i.s.User(), "-p", i.s.Password())...)
}

// plain runs a command that must go well.
func (i *ilorest) plain(args ...string) string {
	i.t.Helper()
	out, err := i.run(args...)
	require.NoError(i.t, err, "%s\nlog: %v %v", out, i.s.Log(), i.s.Requests())
	return out
}

// write puts a file on disk for the client.
func (i *ilorest) write(f transport.File) string {
	i.t.Helper()
	name, err := redfishtest.Save(f, i.cache)
	require.NoError(i.t, err)
	return name
}

// TestIlorestLogin: a session that it makes serves its next command, until it wants it
// ended.
func TestIlorestLogin(t *testing.T) {
	t.Parallel()
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	i := newIlorest(t, s)
	i.plain("login", s.Addr(), "-u", s.User(), "-p", s.Password())
	require.Equal(t, redfishtest.SessionCounts{Opened: 1, Left: 1}, s.SessionCounts())
	require.Contains(t, i.plain("rawget", "/redfish/v1/Systems/1/"), redfishtest.Serial)
	require.Equal(t, 1, s.SessionCounts().Opened, "the session of before")
	i.plain("logout")
	// Where the service is at a port of its own the client spoils the beginning of the
	// path, so that the session stays.
	last := s.Requests()[s.Total()-1]
	require.Equal(t, http.MethodDelete, last.Method)
	require.Contains(t, last.Path, "/redfish/v1/SessionService/Sessions/admin00000001")
}

// TestIlorestReads: rawget and serverinfo.
func TestIlorestReads(t *testing.T) {
	t.Parallel()
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	i := newIlorest(t, s)
	out := i.must("rawget", "/redfish/v1/UpdateService/")
	require.Contains(t, out, "/cgi-bin/uploadFile")
	out = i.must("serverinfo", "--firmware", "--system")
	require.Contains(t, out, "2.72 Sep 04 2022")
	require.Contains(t, out, "ProLiant DL380 Gen10")
}

// TestIlorestFirmwareUpdate: it sees a pull through to its end.
func TestIlorestFirmwareUpdate(t *testing.T) {
	for _, tasks := range []redfishtest.Tasks{redfishtest.TasksNone, redfishtest.TasksAccepted} {
		t.Run("tasks "+string(tasks), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5, Tasks: tasks})
			i := newIlorest(t, s)
			// It has to see the end before the service resets, and to log out.
			hold := s.Inject(redfishtest.Fault{Kind: redfishtest.Hold, State: "Complete"})
			out := i.must("firmwareupdate", serveFile(t, s.Firmware("1").Image("ilo5.bin", "3.01", 1<<20)))
			require.Contains(t, out, "Firmware update has completed")
			require.Zero(t, s.Resets())
			hold.Remove()
			idle(t, s)
			require.Equal(t, "3.01", s.Firmware("1").Version)
		})
	}
}

// TestIlorestUploads: it pushes a component in sections, and makes and invokes an
// install set of one.
func TestIlorestUploads(t *testing.T) {
	t.Parallel()
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	i := newIlorest(t, s)

	big := redfishtest.Component("cp012345.exe", redfishtest.SectionSize+1000)
	sigs, err := redfishtest.Sign(big)
	require.NoError(t, err)
	require.Len(t, sigs, 2)
	for _, sig := range sigs {
		i.write(sig)
	}
	i.must("uploadcomp", "--component", i.write(big), "--compsig", filepath.Join(i.cache, sigs[0].Name))
	idle(t, s)
	require.Equal(t, []string{"cp012345.exe"}, s.Components(), s.Log())

	pmc := s.Firmware("4").Image("pmc.bin", "1.0.8", 100_000)
	i.must("uploadcomp", "--component", i.write(pmc))
	idle(t, s)
	require.Equal(t, "1.0.7", s.Firmware("4").Version)
	set, err := json.Marshal(map[string]any{"Name": "Set1", "IsRecovery": false, "Sequence": []any{
		map[string]any{"Name": "pmc", "UpdatableBy": []string{"Bmc"}, "Command": "ApplyUpdate", "Filename": "pmc.bin"},
	}})
	require.NoError(t, err)
	file := filepath.Join(i.cache, "set.json")
	require.NoError(t, os.WriteFile(file, set, 0o600))
	i.must("installset", "add", file)
	require.Equal(t, []string{"Set1"}, s.InstallSets())
	i.must("installset", "invoke", "-n", "Set1", "--cleartaskqueue")
	idle(t, s)
	require.Equal(t, "1.0.8", s.Firmware("4").Version)
	require.Equal(t, "Complete", s.Queue()[0].State)
}

// TestIlorestPackage: it takes a .fwpkg apart, pushes what is in it and flashes
// that, or puts it into the queue of what the host installs.
func TestIlorestPackage(t *testing.T) {
	t.Parallel()
	s := newServer(t, redfishtest.Config{Profile: redfishtest.ILO5})
	i := newIlorest(t, s)
	i.must("flashfwpkg", i.write(s.Firmware("4").Package("pmc.fwpkg", "1.0.9", 50_000)))
	idle(t, s)
	require.Equal(t, "1.0.9", s.Firmware("4").Version)
	i.must("firmwareupdate", serveFile(t, s.Firmware("6").Image("nic.bin", "20.30", 0)))
	idle(t, s)
	require.Equal(t, "20.30", s.Firmware("6").Staged)
	require.NoError(t, s.Reboot(t.Context(), false))
	require.Equal(t, "20.30", s.Firmware("6").Version)
}
