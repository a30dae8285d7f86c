package agent

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

func TestOutputLog(t *testing.T) {
	var file bytes.Buffer
	o := &outputLog{w: &file, left: 10}
	for _, s := range []string{"0123", "456789"} {
		n, err := o.Write([]byte(s))
		require.NoError(t, err)
		require.Equal(t, len(s), n)
	}
	truncated, last := o.state()
	require.False(t, truncated, "what fits exactly is not truncated")
	require.Equal(t, "0123456789", string(last))
	o.Write([]byte("abc"))
	truncated, last = o.state()
	require.True(t, truncated)
	require.Equal(t, "0123456789", file.String())
	require.Equal(t, "0123456789abc", string(last))
	big := strings.Repeat("x", 10*maxText) + "end"
	o.Write([]byte(big))
	_, last = o.state()
	require.LessOrEqual(t, len(last), 2*maxText)
	require.True(t, bytes.HasSuffix(last, []byte("end")))

	full := &outputLog{w: failingWriter{}, left: 10}
	n, err := full.Write([]byte("abc"))
	require.NoError(t, err, "a full disk does not stop the program")
	require.Equal(t, 3, n)
	truncated, last = full.state()
	require.True(t, truncated)
	require.Equal(t, "abc", string(last))
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestTail(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 10, ""},
		{"\n a\r\nb \n\n", 10, "a\nb"},
		{"50%\r100%", 20, `50%\x0d100%`},
		{"\x1b[31mred", 20, `\x1b[31mred`},
		{"evil\u202egpj", 20, `evil\u202egpj`},
		{"bad \xff byte", 20, "bad \uFFFD byte"},
		{"日本語", 100, "日本語"},
		{"日本語", 4, "語"},
		{"first\nsecond\nthird", 14, "second\nthird"},
		{"a long line and\nz", 8, "ne and\nz"},
		{"\U000E0041", 20, `\U000e0041`},
	} {
		require.Equal(t, c.want, tail([]byte(c.in), c.limit), "%q", c.in)
	}
}

func FuzzTail(f *testing.F) {
	f.Add([]byte("a\x00b\r\n\x1b[0m\u202e\xff日本"), 7)
	f.Fuzz(func(t *testing.T, in []byte, limit int) {
		if limit < 0 || limit > 1<<16 {
			return
		}
		out := tail(in, limit)
		if len(out) > limit || !utf8.ValidString(out) {
			t.Fatalf("%q of %q", out, in)
		}
		for _, r := range out {
			if r != '\n' && r != '\t' && r != utf8.RuneError && !unicode.IsPrint(r) {
				t.Fatalf("%q of %q", out, in)
			}
		}
	})
}

func TestEnvironment(t *testing.T) {
	for _, name := range []string{"LANG", "LC_ALL", "TZ", "DEBIAN_FRONTEND", "NEEDRESTART_MODE", "RM_TOKEN", "RM_A1"} {
		require.True(t, Environment(name), name)
	}
	for _, name := range []string{"", "PATH", "HOME", "IFS", "LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "ENV", "PYTHONPATH",
		"RM_", "LC_", "rm_x", "RM_X Y", "1LANG", "TMPDIR", "DYLD_INSERT_LIBRARIES", "GCONV_PATH", "RM_\x00"} {
		require.False(t, Environment(name), name)
	}
	require.NoError(t, checkEnv([]string{"RM_A=b=c", "TZ="}))
	require.ErrorContains(t, checkEnv([]string{"LD_PRELOAD=/tmp/canary"}), "LD_PRELOAD")
	require.NotContains(t, checkEnv([]string{"LD_PRELOAD=/tmp/canary"}).Error(), "canary")
	require.NotContains(t, checkEnv([]string{"canary"}).Error(), "canary")
	require.Error(t, checkEnv([]string{"RM_A=b\x00c"}))
}

func TestJudge(t *testing.T) {
	const (
		applied, failed   = transport.VerdictApplied, transport.VerdictFailed
		staged, notNeeded = transport.VerdictStaged, transport.VerdictNotNeeded
		reboot            = transport.ActivationReboot
	)
	for _, c := range []struct {
		profile    Profile
		code       int
		verdict    transport.Verdict
		activation transport.Activation
	}{
		{ProfileNone, 0, transport.VerdictUnknown, ""}, {ProfileNone, 1, failed, ""},
		{ProfileZeroOK, 0, applied, ""}, {ProfileZeroOK, 1, failed, ""},
		{ProfileDeb, 0, applied, ""}, {ProfileDeb, 2, failed, ""},
		{ProfileRPM, 0, applied, ""}, {ProfileRPM, 5, failed, ""},
		{ProfileHPELinux, 0, applied, ""}, {ProfileHPELinux, 1, staged, reboot},
		{ProfileHPELinux, 2, notNeeded, ""}, {ProfileHPELinux, 3, failed, ""}, {ProfileHPELinux, 77, failed, ""},
		{ProfileHPELinuxMulti, 0, applied, ""}, {ProfileHPELinuxMulti, 1, staged, reboot}, {ProfileHPELinuxMulti, 2, notNeeded, ""},
		{ProfileHPELinuxMulti, 3, notNeeded, ""}, {ProfileHPELinuxMulti, 4, failed, ""}, {ProfileHPELinuxMulti, 5, transport.VerdictCancelled, ""},
		{ProfileHPELinuxMulti, 6, failed, ""}, {ProfileHPELinuxMulti, 7, failed, ""}, {ProfileHPELinuxMulti, 8, failed, ""},
		{ProfileHPEWindows, 0, failed, ""}, {ProfileHPEWindows, 1, applied, ""}, {ProfileHPEWindows, 2, staged, reboot},
		{ProfileHPEWindows, 3, notNeeded, ""}, {ProfileHPEWindows, 4, failed, ""},
		{ProfileMSI, 0, applied, ""}, {ProfileMSI, 3010, staged, reboot}, {ProfileMSI, 1641, staged, reboot},
		{ProfileMSI, 1603, failed, ""}, {ProfileMSI, 1, failed, ""},
		{ProfileINF, 0, applied, ""}, {ProfileINF, 259, notNeeded, ""}, {ProfileINF, 3010, staged, reboot}, {ProfileINF, 1641, staged, reboot}, {ProfileINF, 2, failed, ""},
		{ProfileDellDUP, 0, applied, ""}, {ProfileDellDUP, 1, failed, ""}, {ProfileDellDUP, 2, staged, reboot},
		{ProfileDellDUP, 3, failed, ""}, {ProfileDellDUP, 6, staged, reboot}, {ProfileDellDUP, 9, failed, ""},
	} {
		require.True(t, c.profile.Known())
		r := c.profile.Judge(transport.Exit{Code: c.code})
		require.Equal(t, c.verdict, r.Verdict, "%s %d", c.profile, c.code)
		require.Equal(t, c.activation, r.Activation)
		require.Equal(t, strconv.Itoa(c.code), r.Code.Value)
		require.Equal(t, failed, c.profile.Judge(transport.Exit{Code: -1, Signal: "KILL"}).Verdict)
	}
	require.False(t, Profile("windows").Known())
	require.Equal(t, failed, Profile("windows").Judge(transport.Exit{}).Verdict)
	require.Contains(t, ProfileDellDUP.Judge(transport.Exit{Code: 3}).Text, "soft dependency")
}
