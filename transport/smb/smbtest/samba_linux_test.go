package smbtest_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/transport/smb/smbtest"
	"github.com/stretchr/testify/require"
)

// lifecycle drives the service control manager with Samba's client, which has an
// NDR of its own. It prints what it sees, a line for each call.
const lifecycle = `
import sys
from samba import param, credentials, WERRORError
from samba.dcerpc import svcctl
port, user, password, domain, dir = sys.argv[1:]
lp = param.LoadParm()
lp.load(dir + "/smb.conf")
for key in ("private dir", "lock directory", "state directory", "cache directory", "pid directory", "ncalrpc dir"):
    lp.set(key, dir)
lp.set("smb ports", port)
lp.set("client signing", "required")
c = credentials.Credentials()
c.guess(lp)
c.set_username(user)
c.set_password(password)
c.set_domain(domain)
c.set_kerberos_state(credentials.DONT_USE_KERBEROS)
s = svcctl.svcctl("ncacn_np:127.0.0.1", lp, c)
def call(f, *args):
    try:
        return f(*args)
    except WERRORError as e:
        print(f.__name__, e.args[0])
def status(h):
    st = s.QueryServiceStatus(h)
    print("status", st.type, st.state, st.controls_accepted, st.win32_exit_code[0])
m = s.OpenSCManagerW("\\\\localhost", None, 0xF003F)
call(s.OpenServiceW, m, "agent", 0xF01FF)
def create():
    r = call(s.CreateServiceW, m, "agent", "Agent display", 0xF01FF, 0x10, 3, 1, "C:\\Windows\\agent.exe serve", None, None, [], None, [])
    return r and r[1]
h = create()
create()
status(h)
call(s.StartServiceW, h, [])
status(h)
call(s.StartServiceW, h, [])
q = s.QueryServiceConfigW(h, 8192)[0]
print("config", q.executablepath, q.displayname, q.startname)
print("stop", s.ControlService(h, 1).state)
while s.QueryServiceStatus(h).state != 1:
    pass
call(s.ControlService, h, 1)
call(s.DeleteService, h)
call(s.DeleteService, h)
create()
s.CloseServiceHandle(h)
call(s.OpenServiceW, m, "agent", 0xF01FF)
try:
    s.QueryServiceLockStatusW(m, 0)
except Exception as e: # RPC_NT_PROCNUM_OUT_OF_RANGE
    print("fault", hex(e.args[0]))
status(create())
`

// TestSambaClient: what go-msrpc encodes and decodes on both sides in the other
// tests, Samba understands too.
func TestSambaClient(t *testing.T) {
	s := newServer(t, smbtest.Config{})
	const python = "/usr/bin/python3" // Debian's: Samba's modules are made for no other
	if err := exec.CommandContext(t.Context(), python, "-c", "from samba.dcerpc import svcctl").Run(); err != nil {
		realtest.Missing(t, "Samba's modules for "+python+" (apt: python3-samba)")
	}
	_, port, err := net.SplitHostPort(s.Addr())
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "smb.conf"), []byte("[global]\n"), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, python, "-c", lifecycle, port, s.User(), s.Password(), s.Domain(), dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, `OpenServiceW 1060
CreateServiceW 1073
status 16 1 0 1077
status 16 4 1 0
StartServiceW 1056
config C:\Windows\agent.exe serve Agent display LocalSystem
stop 3
ControlService 1062
DeleteService 1072
CreateServiceW 1072
OpenServiceW 1060
fault 0xc002002e
status 16 1 0 1077
`, string(out))
	require.Len(t, s.Services().List(), 1)
}
