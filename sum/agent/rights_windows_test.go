package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"
)

// Descriptors of rights as they are on a Windows server: of C:\Windows, of a directory that
// an administrator made there, of C:\, and of C:\ProgramData.
const (
	ofWindows = "O:" + trustedInstaller + "G:" + trustedInstaller +
		"D:PAI(A;OICIIO;GA;;;CO)(A;OICIIO;GA;;;SY)(A;;0x1301bf;;;SY)(A;OICIIO;GA;;;BA)(A;;0x1301bf;;;BA)(A;OICIIO;GXGR;;;BU)(A;;0x1200a9;;;BU)" +
		"(A;CIIO;GA;;;" + trustedInstaller + ")(A;;FA;;;" + trustedInstaller + ")(A;;0x1200a9;;;AC)(A;OICIIO;GXGR;;;AC)"
	belowWindows = "O:BAG:SYD:AI(A;OICIIOID;GA;;;CO)(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;0x1200a9;;;BU)(A;OICIID;0x1200a9;;;AC)"
	ofDrive      = "O:" + trustedInstaller + "G:SYD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)(A;;LC;;;AU)(A;OICIIO;SDGXGWGR;;;AU)"
	ofData       = "O:SYG:SYD:PAI(A;OICIIO;GA;;;CO)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)(A;CI;DCLCRPCR;;;BU)"
)

func TestWindowsWhoMayWrite(t *testing.T) {
	for _, c := range []struct {
		sddl        string
		share, lead bool // safe as a directory of agents, and as one above
	}{
		{ofWindows, true, true},
		{belowWindows, true, true},
		{ofDrive, false, true},
		{ofData, false, true},
		{"O:BUG:BUD:P(A;;FA;;;SY)", false, false},              // a user's
		{"O:S-1-5-21-1-2-3-1001D:P(A;;FA;;;SY)", false, false}, // of nobody that is known
		{"O:BAD:P(A;;FA;;;SY)(A;;FW;;;WD)", false, true},       // everybody may write
		{"O:BAD:P(A;;FA;;;SY)(A;;WD;;;AU)", false, false},      // everybody may change the rights
		{"O:BAD:P(A;;FA;;;SY)(A;OICIIO;FA;;;BU)", false, true}, // everybody may write what is made there
		{"O:BAD:P(A;;FA;;;SY)(A;;SD;;;BU)", false, false},      // everybody may delete it
		{"O:BAD:P(D;;FA;;;BU)(A;;0x1200a9;;;BU)", true, true},  // denied
		{"O:SYD:P", true, true},                                // nobody
	} {
		sd, err := windows.SecurityDescriptorFromString(c.sddl)
		require.NoError(t, err, c.sddl)
		who := otherWho(sd, mayWrite, true)
		require.Equal(t, c.share, who == "", "%s: %s", c.sddl, who)
		who = otherWho(sd, mayExchange, false)
		require.Equal(t, c.lead, who == "", "%s: %s", c.sddl, who)
	}
	// No list at all.
	sd, err := windows.NewSecurityDescriptor()
	require.NoError(t, err)
	system, err := windows.CreateWellKnownSid(windows.WinLocalSystemSid)
	require.NoError(t, err)
	require.NoError(t, sd.SetOwner(system, false))
	require.NoError(t, sd.SetDACL(nil, true, false))
	require.Equal(t, "everybody", otherWho(sd, mayExchange, false))
}

// TestWindowsForeignDirectory: where others may write nothing is believed.
func TestWindowsForeignDirectory(t *testing.T) {
	for _, which := range []string{"own", "base", "above"} {
		t.Run(which, func(t *testing.T) {
			above := tempDir(t)
			base := filepath.Join(above, "base")
			h := home(filepath.Join(base, "agent"))
			require.NoError(t, os.MkdirAll(string(h), 0o700))
			for _, dir := range []string{above, base, string(h)} {
				require.NoError(t, keepOthersOut(dir))
			}
			require.NoError(t, h.check())
			open := map[string]string{"own": string(h), "base": base, "above": above}[which]
			sd, err := windows.SecurityDescriptorFromString("D:P(A;OICI;GA;;;BA)(A;OICI;GA;;;SY)(A;OICI;GA;;;WD)")
			require.NoError(t, err)
			dacl, _, err := sd.DACL()
			require.NoError(t, err)
			require.NoError(t, windows.SetNamedSecurityInfo(open, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION, nil, nil, dacl, nil))
			err = h.check()
			require.ErrorIs(t, err, errNotOurs)
			require.ErrorContains(t, err, open)
			require.NoError(t, os.WriteFile(h.path(BootstrapName), []byte(`{"version":1}`), 0o600))
			_, err = serve(t.Context(), h)
			require.ErrorIs(t, err, errNotOurs)
			require.FileExists(t, h.path(BootstrapName), "it was not even read")
			_, err = Remove(t.Context(), string(h))
			require.ErrorIs(t, err, errNotOurs)
			_, err = NewInProcess(t.Context(), InProcessOptions{Dir: string(h)})
			require.ErrorIs(t, err, errNotOurs)
			require.NoError(t, keepOthersOut(open))
		})
	}
}
