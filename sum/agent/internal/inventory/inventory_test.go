package inventory

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roundsman-go/roundsman/transport"
)

func TestPartThatHangsLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		defer synctest.Wait()
		defer close(stuck)
		inv := Options{parts: []part{
			{name: "hangs", timeout: time.Minute, read: func(_ context.Context, out *finds) {
				out.device(transport.Device{ID: "1", Class: "nic"})
				out.device(transport.Device{ID: "1", Class: "nic", Firmware: "2"})
				<-stuck
				out.device(transport.Device{ID: "2", Class: "nic"})
			}},
			{name: "ends", read: func(_ context.Context, out *finds) {
				out.installed(transport.Software{Name: "b"})
				out.installed(transport.Software{Name: "a"})
				out.note("date:\t%d", 2)
			}},
			{name: "panics", read: func(_ context.Context, out *finds) {
				out.who(transport.Identity{Name: "n"})
				panic("bad\x00table")
			}},
		}}.Collect(context.Background())
		require.Equal(t, &transport.Inventory{
			Identity: transport.Identity{Name: "n"},
			Devices:  []transport.Device{{ID: "1", Class: "nic", Firmware: "2"}},
			Software: []transport.Software{{Name: "a"}, {Name: "b"}},
			Problems: []transport.Problem{
				{Part: "hangs", Text: "not finished within 1m0s"},
				{Part: "panics", Text: "stopped: badtable"},
			},
			Notes: []transport.Problem{{Part: "ends", Text: "date: 2"}},
		}, inv)
	})
}

func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errors.New("manager left"))
		inv := Options{parts: []part{{name: "p", read: func(ctx context.Context, out *finds) {
			<-ctx.Done()
			out.problem("said in time")
		}}}}.Collect(ctx)
		require.Contains(t, inv.Problems, transport.Problem{Part: "p", Text: "said in time"})
		require.Contains(t, inv.Problems, transport.Problem{Part: "p", Text: "not finished: manager left"})
	})
}

func TestTidyBounds(t *testing.T) {
	inv := &transport.Inventory{}
	for range maxDevices + 5 {
		inv.Devices = append(inv.Devices, transport.Device{ID: strings.Repeat("x", 5000)})
	}
	tidy(inv)
	require.Len(t, inv.Devices, maxDevices)
	require.Len(t, inv.Devices[0].ID, maxText)
	require.Equal(t, "4101 devices found, only 4096 reported", inv.Problems[0].Text)
	require.Equal(t, "a b", clean(" a\tb\x00\xff\x1b "))
	require.Equal(t, "é", clean("é"))
}

func TestParseOSRelease(t *testing.T) {
	got := parseOSRelease(strings.NewReader(strings.Join([]string{
		`# comment`, `A=plain`, `B="double \"q\" \$x \n"`, `C='single \ "'`, `D=`, ` E="spaced"  `,
		`F="open`, `1G=x`, `H`, `I=a\ b`, `J=x # note`, `K=two words`, `L=x"y"'z'`, `M=\`,
	}, "\n")))
	require.Equal(t, map[string]string{
		"A": "plain", "B": `double "q" $x \n`, "C": `single \ "`, "D": "", "E": "spaced",
		"I": "a b", "J": "x", "L": "xyz",
	}, got)
}

func dpkgList(s string) (out []transport.Software, err error) {
	err = ParseDpkgStatus(strings.NewReader(s), func(p transport.Software) { out = append(out, p) })
	return out, err
}

func TestParseDpkgStatus(t *testing.T) {
	long := strings.Repeat("x", 3*maxDpkgLine)
	got, err := dpkgList("Package: a\nStatus: install ok installed\nDepends: " + long + "\nDescription: d\n Version: 9\n\tStatus: x\nVersion: 1:2-3\nArchitecture: amd64\n\n\n" +
		"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n" +
		"Package: held\nStatus: hold ok installed\nVersion: 2\n\n" +
		"Package: broken\nStatus: install reinstreq half-installed\nVersion: 2\n\n" +
		"Package: pending\nStatus: install ok triggers-pending\nVersion: 5\n\n" +
		"Package: awaited\nStatus: install ok triggers-awaited\nVersion: 6\n\n" +
		"Package: half\nStatus: install ok half-configured\nVersion: 7\n\n" +
		"Package: unpacked\nStatus: install ok unpacked\nVersion: 2\n\n" +
		"Package: noversion\nStatus: install ok installed\n\n" +
		"garbage without a colon\n \n" +
		"pAckage: z\r\nsTatus: install ok installed\r\nvErsion: 4\r\narchitecture: all")
	require.NoError(t, err)
	require.Equal(t, []transport.Software{
		{Name: "a", Version: "1:2-3", Arch: "amd64", Source: "dpkg"},
		{Name: "held", Version: "2", Source: "dpkg"},
		{Name: "pending", Version: "5", Source: "dpkg"},
		{Name: "awaited", Version: "6", Source: "dpkg"},
		{Name: "z", Version: "4", Arch: "all", Source: "dpkg"},
	}, got)

	many := strings.Repeat("Package: a\nStatus: install ok installed\nVersion: 1\n\n", maxSoftware+1)
	got, err = dpkgList(many)
	require.ErrorIs(t, err, errTooLong)
	require.Len(t, got, maxSoftware)
}

func TestParseRPM(t *testing.T) {
	var got []transport.Software
	add := func(p transport.Software) { got = append(got, p) }
	require.NoError(t, ParseRPM(strings.NewReader("bash\t5.1-2.el9\tx86_64\ngpg-pubkey\t1-2\t(none)\nx\t1:0-1\t(none)\n"), add))
	require.Equal(t, []transport.Software{
		{Name: "bash", Version: "5.1-2.el9", Arch: "x86_64", Source: "rpm"},
		{Name: "x", Version: "1:0-1", Source: "rpm"},
	}, got)
	require.ErrorContains(t, ParseRPM(strings.NewReader("warning: broken\n"), add), "unexpected line")
	require.Error(t, ParseRPM(strings.NewReader(strings.Repeat("x", maxRPMLine+1)), add))
}

func FuzzParseOSRelease(f *testing.F) {
	f.Add("A=b\nC=\"d\\\"\"\nE='f'\n")
	f.Fuzz(func(t *testing.T, s string) {
		for name, value := range parseOSRelease(strings.NewReader(s)) {
			require.True(t, isVariable(name))
			require.Contains(t, s, name)
			require.LessOrEqual(t, len(value), maxOSReleaseLine)
		}
	})
}

func FuzzParseDpkgStatus(f *testing.F) {
	f.Add("Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\nPackage: b\n")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := dpkgList(s)
		require.NoError(t, err)
		for _, p := range got {
			require.NotEmpty(t, p.Name)
			require.NotEmpty(t, p.Version)
			require.Equal(t, "dpkg", p.Source)
			require.Contains(t, s, p.Version)
		}
	})
}

func FuzzParseRPM(f *testing.F) {
	f.Add("bash\t5.1-2.el9\tx86_64\ngpg-pubkey\t1-2\t(none)\nx\t1:0-1\t(none)\n")
	f.Add("a\t1\t\r\n\n")
	f.Add("warning: broken\n")
	f.Add("a\t1\t" + strings.Repeat("x", maxRPMLine))
	f.Fuzz(func(t *testing.T, s string) {
		var got []transport.Software
		err := ParseRPM(strings.NewReader(s), func(p transport.Software) { got = append(got, p) })
		for _, p := range got {
			require.NotEmpty(t, p.Name)
			require.NotEmpty(t, p.Version)
			require.NotEqual(t, "gpg-pubkey", p.Name)
			require.NotEqual(t, "(none)", p.Arch)
			require.Equal(t, "rpm", p.Source)
			require.Contains(t, s, p.Name+"\t"+p.Version+"\t"+p.Arch)
			require.NotContains(t, p.Name+p.Version+p.Arch, "\t")
			require.NotContains(t, p.Name+p.Version+p.Arch, "\n")
		}
		if err == nil {
			lines := strings.Count(strings.TrimSuffix(s, "\n"), "\n") + 1
			if s == "" {
				lines = 0
			}
			require.Equal(t, lines, len(got)+strings.Count("\n"+s, "\ngpg-pubkey\t"), "no line is left out")
		}
	})
}
