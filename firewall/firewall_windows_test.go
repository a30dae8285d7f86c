package firewall

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"github.com/go-ole/go-ole"
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

// TestProgramThroughLink: rules name the file itself, not a link that leads to it.
func TestProgramThroughLink(t *testing.T) {
	same := func(a, b string) {
		t.Helper()
		one, err := os.Stat(a)
		require.NoError(t, err)
		other, err := os.Stat(b)
		require.NoError(t, err)
		require.True(t, os.SameFile(one, other), "%s and %s", a, b)
	}
	self, err := os.Executable()
	require.NoError(t, err)
	path, err := program()
	require.NoError(t, err)
	same(self, path)
	require.NotContains(t, path, `\\?\`)

	want, err := finalPath(self)
	require.NoError(t, err)
	require.Equal(t, path, plainPath(want))

	dir, err := os.MkdirTemp("", "firewall") // Wine 8 cannot do what t.TempDir does at the end
	require.NoError(t, err)
	defer func() { _ = os.RemoveAll(dir) }()
	_, err = finalPath(filepath.Join(dir, "nothing"))
	require.ErrorIs(t, err, os.ErrNotExist)
	link := filepath.Join(dir, "link")
	out, err := exec.Command("cmd", "/c", "mklink", "/J", link, filepath.Dir(self)).CombinedOutput()
	if _, linked := os.Stat(filepath.Join(link, filepath.Base(self))); linked != nil {
		t.Skipf("no junctions here, as in Wine: %v: %s", err, out)
	}
	through, err := finalPath(filepath.Join(link, filepath.Base(self)))
	require.NoError(t, err)
	require.Equal(t, want, through)
}

// TestElements: what an enumeration says is told apart: an element, the end, and a
// failure, of which go-ole's own loop makes an end.
func TestElements(t *testing.T) {
	var says uintptr
	kind := ole.VT_EMPTY
	vtable := ole.IEnumVARIANTVtbl{Next: syscall.NewCallback(func(_ uintptr, _ uintptr, v *ole.VARIANT, n *uint32) uintptr {
		if says == 0 {
			*v, *n = ole.NewVariant(kind, 0), 1
		}
		return says
	})}
	enum := new(ole.IEnumVARIANT)
	enum.RawVTable = (*any)(unsafe.Pointer(&vtable))
	for _, code := range []uint32{codeFalse, 0x800706ba} {
		says = uintptr(code)
		o, got := element(enum)
		require.Nil(t, o)
		require.Equal(t, code, got)
	}
	says = 0
	o, code := element(enum)
	require.Nil(t, o)
	require.EqualValues(t, codeTypeMismatch, code)
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
