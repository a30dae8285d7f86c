package main

import (
	"context"
	"encoding/csv"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/stretchr/testify/require"
)

// preflight runs the command, without the user's SSH configuration.
func (b *bench) preflight(args ...string) int {
	b.t.Helper()
	return b.run(b.t.Context(), append([]string{"preflight", "--ssh-config", "none"}, args...)...)
}

func TestPreflightText(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	require.Equal(t, exitFine, b.preflight("--manager", "192.0.2.1", "linux://root@192.0.2.11:2222", "ilo://192.0.2.31", "local:"), b.errs.String())
	require.Equal(t, `
TARGET                        PHASE             FROM               TO                 PORT       NEED      PURPOSE
linux://root@192.0.2.11:2222  inventory,deploy  manager 192.0.2.1  192.0.2.11         2222/tcp   required  SSH: files, commands, agent channel
ilo://192.0.2.31              inventory,deploy  manager 192.0.2.1  192.0.2.31         22/tcp     required  SSH command line, for SUM (Redfish does without)
ilo://192.0.2.31              inventory,deploy  manager 192.0.2.1  192.0.2.31         443/tcp    required  HTTPS management interface (Redfish)
ilo://192.0.2.31              inventory,deploy  manager 192.0.2.1  192.0.2.31         80/tcp     optional  HTTP management interface, for SUM (Redfish does without)
ilo://192.0.2.31              deploy            192.0.2.31         manager 192.0.2.1  63001/tcp  required  payloads to the target, status from it (HTTP)
local:                        -                 -                  -                  none       -         
`, "\n"+b.out.String())
	require.Empty(t, b.errs.String())

	require.Equal(t, exitFine, b.preflight("--generation", "classic", "--port-per-target", "--port", "manager-to-target=50000-50005", "--phase", "deploy", "--use", "sum-7.0", "linux://127.0.0.1"))
	require.Contains(t, b.out.String(), "linux://127.0.0.1  deploy  manager 127.0.0.1  127.0.0.1          62286+/tcp from 50000-50005      required     agent (SOAP over TLS)\n")
	require.Contains(t, b.out.String(), "63001/tcp                        for sum-7.0  status to SUM 7.0 to 7.2 (HTTP)")
}

func TestPreflightJSON(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	fleet := filepath.Join(t.TempDir(), "fleet.yaml")
	require.NoError(t, os.WriteFile(fleet, []byte("targets:\n  - {name: db1, url: 'linux://root@192.0.2.11'}\n"), 0o600))
	for _, flag := range []string{"--json", "--format=json"} {
		require.Equal(t, exitFine, b.preflight(flag, "--manager", "192.0.2.1", "--manager", "2001:db8::1", "--fleet", fleet), b.errs.String())
		require.Equal(t, `{"v":1,"event":"flow","target":"linux://root@192.0.2.11","name":"db1","kind":"linux","phases":["inventory","deploy"],`+
			`"from":{"party":"manager","addresses":["192.0.2.1/32"]},"to":{"party":"target","host":"192.0.2.11","addresses":["192.0.2.11/32"]},`+
			`"direction":"to-target","protocol":"tcp","first":22,"last":22,"need":"required","purpose":"SSH: files, commands, agent channel"}`+"\n"+
			`{"v":1,"event":"summary","command":"preflight","targets":1,"failed":0,"exit":0}`+"\n", b.out.String())
	}
}

func TestPreflightCSV(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	fleet := filepath.Join(t.TempDir(), "fleet.yaml")
	require.NoError(t, os.WriteFile(fleet, []byte("targets:\n  - {name: '=HYPERLINK(\"http://x\",\"a\")', url: 'linux://192.0.2.11'}\n"), 0o600))
	require.Equal(t, exitFine, b.preflight("--format", "csv", "--manager", "192.0.2.1", "--fleet", fleet, "ilo://192.0.2.31"), b.errs.String())
	require.Equal(t, strings.Count(b.out.String(), "\n"), strings.Count(b.out.String(), "\r\n"), "RFC 4180 ends lines with CRLF")
	rows, err := csv.NewReader(strings.NewReader(b.out.String())).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 6)
	require.Equal(t, []string{"target", "kind", "phases", "direction", "from", "from_addresses", "to", "to_addresses",
		"protocol", "first", "last", "open", "source_first", "source_last", "need", "option", "purpose"}, rows[0])
	require.Equal(t, []string{`'=HYPERLINK("http://x","a")`, "linux", "inventory,deploy", "to-target", "manager", "192.0.2.1", "192.0.2.11", "192.0.2.11",
		"tcp", "22", "22", "false", "0", "0", "required", "", "SSH: files, commands, agent channel"}, rows[1])
	require.Equal(t, []string{"ilo://192.0.2.31", "ilo", "deploy", "to-manager", "192.0.2.31", "192.0.2.31", "manager", "192.0.2.1"}, rows[5][:8])

	for in, want := range map[string]string{"db1": "db1", "": "", "-1": "'-1", "+x": "'+x", "@x": "'@x", "  =x": "'  =x", "\t=x": "' =x", "＝x": "'＝x", "a=b": "a=b", "=\x1b": `'=\x1b`} {
		require.Equal(t, want, noFormula(in))
	}
}

func TestPreflightRules(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	args := []string{"--manager", "192.0.2.1", "ilo://192.0.2.31", "linux://192.0.2.11"}
	require.Equal(t, exitFine, b.preflight(append(args, "--format", "nft")...), b.errs.String())
	require.Contains(t, b.out.String(), "\ninsert rule inet filter input ip saddr 192.0.2.31 tcp dport 63001 accept\n")
	require.Equal(t, exitFine, b.preflight(append(args, "--format", "ufw", "--for", "target")...), b.errs.String())
	require.Contains(t, b.out.String(), "\nufw prepend allow proto tcp from 192.0.2.1 to any port 22\n")
	require.Equal(t, exitFine, b.preflight(append(args, "--format", "iptables", "--for", "between", "--optional")...), b.errs.String())
	require.Contains(t, b.out.String(), "\niptables -I FORWARD -p tcp -s 192.0.2.1 -d 192.0.2.31 --dport 80 -j ACCEPT\n")

	// What is not known makes no rule.
	require.Equal(t, exitFailed, b.preflight("--manager", "192.0.2.1", "--format", "nft", "vmware://192.0.2.20/host-17"))
	require.Empty(t, b.out.String())
	require.Equal(t, "roundsman: vmware://192.0.2.20/host-17: rules: invalid input: the address of host-17 is not known, and a rule without it would be for everybody\n", b.errs.String())
	require.Equal(t, exitFailed, b.preflight("--format", "netsh", "--for", "target", "windows://LAB;ops@no-such-host-1.invalid"))
	require.Contains(t, b.errs.String(), "the address of the manager is not known")
	require.Contains(t, b.errs.String(), "--manager ADDRESS")
	require.Equal(t, exitFine, b.preflight("--manager", "192.0.2.1", "vmware://192.0.2.20/host-17"))
	require.Contains(t, b.out.String(), "host-17 (unknown)")
}

func TestPreflightUsage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, tt := range []struct {
		args string
		want string
	}{
		{"", "no target"},
		{"linux://192.0.2.1 --phase reboot", `--phase "reboot"`},
		{"linux://192.0.2.1 --format xml", `--format "xml": want text, json, csv, nft, firewalld, ufw, iptables, netsh, esxcli`},
		{"linux://192.0.2.1 --json --format csv", "--json excludes --format csv"},
		{"linux://192.0.2.1 --for me", `--for "me"`},
		{"linux://192.0.2.1 --use sun", `--use "sun": want one of netbios, wmi, oa-fetch, sum-7.0, hp-sum`},
		{"linux://192.0.2.1 --manager here", `--manager "here"`},
		{"linux://192.0.2.1 --manager ::", "the manager's address :: is none that a target can see"},
		{"linux://192.0.2.1 --generation 6", `--generation "6"`},
		{"linux://192.0.2.1 --first-ports", "are for --generation classic"},
		{"linux://192.0.2.1 --port port=63002", "63002"},
		{"sas-switch://[2001:db8::1]", "switches of kind sas-switch do not speak"},
		{"linux://192.0.2.1 --manager 192.0.2.9 --format esxcli", `esxcli has no rules for the side "manager"`},
	} {
		require.Equal(t, exitUsage, b.preflight(strings.Fields(tt.args)...), tt.args)
		require.Contains(t, b.errs.String(), tt.want)
		require.Empty(t, b.out.String())
	}
}

// TestPreflightUse: what an option needs is tried, too.
func TestPreflightUse(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for flags, want := range map[string]int{"": 0, "--use oa-fetch": 1} {
		b.preflight(append(strings.Fields(flags), "--probe", "--json", "oa://192.0.2.7")...)
		require.Empty(t, b.of("error"))
		back := 0
		for _, f := range b.of("finding") {
			if f["direction"] == string(sum.ToManager) {
				back++
				require.EqualValues(t, 80, f["port"])
			}
		}
		require.Equal(t, want, back, "%s: %s", flags, b.out.String())
	}
	require.Equal(t, exitUsage, b.preflight("--probe", "--use", "sun", "oa://192.0.2.7"))
}

// TestDeployUnfit: a deployment looks before it changes something, with and without a
// plan, unless it is told not to.
func TestDeployUnfit(t *testing.T) {
	t.Parallel()
	for _, planned := range []bool{false, true} {
		b := newBench(t)
		args := []string{"deploy", "--json", "--component", b.component(nil), db1}
		if planned {
			file := filepath.Join(t.TempDir(), "plan.json")
			require.Equal(t, exitFine, b.run(t.Context(), "plan", "-o", file, args[2], args[3], db1), b.errs.String())
			args = []string{"deploy", "--json", "--plan", file}
		}
		b.fake.Host(db1).SetFacts(agent.Facts{OS: "linux", Arch: "amd64", Dir: "/var/lib/roundsman", Free: 1 << 10})
		require.Equal(t, exitFailed, b.run(t.Context(), args...))
		require.Contains(t, b.of("error")[0]["error"], string(sum.FindSpace))
		require.Zero(t, b.fake.Runs("hello"))
		require.Equal(t, exitFine, b.run(t.Context(), append(args, "--no-preflight")...), b.errs.String())
		require.Equal(t, 1, b.fake.Runs("hello"))
		b.clean()
	}
}

// TestPreflightDialsNobody: it finds its own address and sends nothing to the target.
func TestPreflightDialsNobody(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	b := newBench(t)
	require.Equal(t, exitFine, b.preflight("linux://"+l.Addr().String(), "--format", "nft", "--for", "target"), b.errs.String())
	_, port, _ := strings.Cut(l.Addr().String(), ":")
	require.Contains(t, b.out.String(), "ip saddr 127.0.0.1 tcp dport "+port+" accept")
	require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now()))
	_, err = l.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// TestPreflightNames: each name is looked up once, what is not found is told, and a
// stop ends the wait.
func TestPreflightNames(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 10)
	n := names{lookup: func(_ context.Context, _, host string) ([]netip.Addr, error) {
		asked <- host
		if host == "db1" {
			return []netip.Addr{netip.MustParseAddr("192.0.2.11")}, nil
		}
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}}
	list := []sum.Target{{Kind: sum.Linux, Address: "db1"}, {Kind: sum.ILO, Address: "gone"}, {Kind: sum.Windows, Address: "db1"}, {Kind: sum.Local}}
	flows, err := n.matrix(t.Context(), list, sum.MatrixOptions{Manager: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
	require.NoError(t, err)
	require.Len(t, asked, 2)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("192.0.2.11/32")}, flows[0].To.Addresses)
	require.Len(t, n.failed, 1)
	require.ErrorContains(t, n.failed[0], "no address for gone: ")

	ctx, cancel := context.WithCancel(t.Context())
	n = names{lookup: func(ctx context.Context, _, _ string) ([]netip.Addr, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	_, err = n.matrix(ctx, list, sum.MatrixOptions{})
	var work workError
	require.ErrorAs(t, err, &work)
	require.Equal(t, exitStopped, work.status)
	require.True(t, errors.Is(err, context.Canceled))
}
