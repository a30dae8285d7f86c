package firewall

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"
)

// TestOwnerLives: a process is known by its number and its beginning, and a dead
// one is dead though somebody has a handle of it.
func TestOwnerLives(t *testing.T) {
	if os.Getenv("ROUNDSMAN_FIREWALL_CHILD") != "" {
		return
	}
	o, err := self("run")
	require.NoError(t, err)
	check := func(want bool, o Owner) {
		t.Helper()
		living, err := alive(o)
		require.NoError(t, err)
		require.Equal(t, want, living)
	}
	check(true, o)
	check(false, Owner{Run: o.Run, PID: o.PID, Start: "1"})
	check(false, Owner{Run: o.Run, PID: 1 << 30, Start: o.Start})

	cmd := exec.Command(os.Args[0], "-test.run=^TestOwnerLives$")
	cmd.Env = append(os.Environ(), "ROUNDSMAN_FIREWALL_CHILD=1")
	require.NoError(t, cmd.Start())
	process, err := os.FindProcess(cmd.Process.Pid) // a handle that stays open
	require.NoError(t, err)
	defer func() { _ = process.Release() }()
	var start string
	require.NoError(t, process.WithHandle(func(h uintptr) { start, err = creation(windows.Handle(h)) }))
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	check(false, Owner{Run: "run", PID: cmd.Process.Pid, Start: start})
}

// TestPolicyNames: the system knows the names that are used. Wine has the policy,
// but most of its properties are not implemented, and nothing of the rules.
func TestPolicyNames(t *testing.T) {
	const unknownName, notImplemented = 0x80020006, 0x80004001
	com, server, err := newApartment(t.Context(), enter)
	require.NoError(t, err)
	defer com.close()
	require.NoError(t, com.do(t.Context(), func(func() bool) error {
		policy, err := server.create("HNetCfg.FwPolicy2")
		if err != nil {
			return err
		}
		defer policy.release()
		_, err = policy.get("NoSuchName")
		e := (*comError)(nil)
		if !errors.As(err, &e) || e.code != unknownName {
			t.Errorf("a name that does not exist: %v", err)
		}
		for name, args := range map[string][]any{
			"CurrentProfileTypes": nil, "LocalPolicyModifyState": nil,
			"FirewallEnabled": {fwPublic}, "BlockAllInboundTraffic": {fwPublic},
		} {
			v, err := policy.get(name, args...)
			switch {
			case errors.As(err, &e) && e.code == notImplemented:
				t.Logf("%s: %v", name, err)
			case err != nil:
				t.Errorf("%s: %v", name, err)
			default:
				t.Logf("%s: %T %v", name, v, v)
			}
		}
		rules, err := property[comObject](policy, "Rules")
		if err != nil {
			return err
		}
		rules.release()
		rule, err := server.create("HNetCfg.FWRule")
		if err != nil {
			return err
		}
		rule.release()
		return nil
	}))
}
