package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

// TestServes captures a service of each profile, serves all the captures with one program,
// and reads from each what is read from the service itself, by what the program prints.
func TestServes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var files []string
	want := map[string]*transport.Inventory{}
	for _, p := range redfishtest.Profiles() {
		srv, err := redfishtest.NewServer(redfishtest.Config{Profile: p})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, srv.Close()) })
		ep := transport.Endpoint{Address: srv.Addr(), Credentials: transport.Credentials{User: srv.User(), Password: transport.NewSecret(srv.Password())},
			Trust: transport.Trust{SPKI: [][32]byte{srv.SPKI()}}}
		var text bytes.Buffer
		_, err = (&redfish.Transport{}).Capture(t.Context(), ep, &text, redfish.CaptureOptions{})
		require.NoError(t, err)
		file := filepath.Join(dir, string(p)+".json")
		require.NoError(t, os.WriteFile(file, text.Bytes(), 0o600))
		files, want[file] = append(files, file), inventory(t, ep)
	}
	seen := 0
	serve(t, len(files), files, "", func(file, kind string, ep transport.Endpoint) {
		inv := inventory(t, ep)
		require.NotEmpty(t, inv.Devices)
		require.Len(t, inv.Devices, len(want[file].Devices), file)
		for i, d := range want[file].Devices {
			require.Equal(t, d.Firmware, inv.Devices[i].Firmware, file)
		}
		if strings.Contains(file, "ilo") {
			require.Equal(t, "ilo", kind)
		}
		if strings.HasSuffix(file, "rmc.json") {
			require.Equal(t, "superdome-flex", kind)
		}
		seen++
	})
	require.Equal(t, len(files), seen)
	serve(t, 1, []string{"-profile", "rmc", "-listen", "[::1]:0"}, "a-password", func(what, kind string, ep transport.Endpoint) {
		require.Equal(t, "rmc superdome-flex", what+" "+kind)
		require.True(t, strings.HasPrefix(ep.Address, "[::1]:"))
		require.NotEmpty(t, inventory(t, ep).Devices)
	})
}

func inventory(t *testing.T, ep transport.Endpoint) *transport.Inventory {
	t.Helper()
	conn, err := (&redfish.Transport{}).Dial(t.Context(), ep)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	inv, err := transport.ReadInventory(t.Context(), conn)
	require.NoError(t, err)
	return inv
}

// serve runs the program with so many servers, has each line that it prints looked at, and interrupts it.
func serve(t *testing.T, servers int, args []string, password string, look func(what, kind string, ep transport.Endpoint)) {
	t.Helper()
	serveAll(t, servers, args, password, func(what string, words []string, kind string, ep transport.Endpoint) {
		require.Len(t, words, 5, words)
		require.Equal(t, []string{"roundsman", "inventory", "--pin"}, []string{words[0], words[1], words[3]})
		look(what, kind, ep)
	})
}

// serveAll is serve, of a program that prints so many commands.
func serveAll(t *testing.T, commands int, args []string, password string, look func(what string, words []string, kind string, ep transport.Endpoint)) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, args, w, io.Discard, password)
		_ = w.CloseWithError(err)
		ended <- err
	}()
	lines := bufio.NewScanner(r)
	for range commands {
		require.True(t, lines.Scan(), "the program has ended: %v", lines.Err())
		what, command, _ := strings.Cut(lines.Text(), ": ")
		secret := password
		if rest, ok := strings.CutPrefix(command, "ROUNDSMAN_PASSWORD="); ok {
			secret, command, _ = strings.Cut(rest, " ")
		}
		words := strings.Fields(command)
		kind, rest, _ := strings.Cut(words[len(words)-3], "://")
		user, addr, _ := strings.Cut(rest, "@")
		look(what, words, kind, transport.Endpoint{Address: addr, Credentials: transport.Credentials{User: user, Password: transport.NewSecret(secret)},
			Trust: transport.Trust{FirstUse: func(_ context.Context, seen transport.SeenIdentity) error {
				require.Equal(t, words[len(words)-1], seen.Fingerprint)
				return nil
			}}})
	}
	stop()
	require.NoError(t, <-ended)
}

// TestImages: for each profile there is a component for its management processor, and a
// command that deploys it, and the host tells when it was restarted.
func TestImages(t *testing.T) {
	t.Parallel()
	for _, p := range redfishtest.Profiles() {
		dir := filepath.Join(t.TempDir(), string(p))
		deploy := ""
		serveAll(t, 2, []string{"-profile", string(p), "-images", dir, "-pace", "1ms"}, "a-password", func(_ string, words []string, _ string, ep transport.Endpoint) {
			if words[1] == "inventory" {
				inv := inventory(t, ep)
				require.NotEmpty(t, inv.Identity.BootID)
				comp, err := component.Load(t.Context(), dir)
				require.NoError(t, err)
				target, err := sum.ParseTarget(words[2])
				require.NoError(t, err)
				plan := sum.MakePlan(target, inv, []*component.Component{comp}, sum.PlanOptions{})
				require.Equal(t, sum.Install, plan.Items[0].Action, plan.Items[0].Reason)
				return
			}
			deploy = strings.Join(words[:4], " ")
		})
		require.Equal(t, "roundsman deploy --component "+dir, deploy)
	}
}

// TestArguments: what makes no sense is told.
func TestArguments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := filepath.Join(dir, "other.json")
	require.NoError(t, os.WriteFile(other, []byte(`{"version": 9}`), 0o600))
	for want, args := range map[string][]string{
		"give a capture":   {},
		"excludes":         {"-profile", "ilo5", other},
		"is for one":       {"-listen", "127.0.0.1:0", other, other},
		"no such file":     {filepath.Join(dir, "none.json")},
		"of version 9":     {other},
		`no profile "x"`:   {"-profile", "x"},
		"not defined":      {"-x"},
		"never changes":    {"-images", dir, other},
		"not be negative":  {"-profile", "ilo5", "-pace", "-1s"},
		"it is an IP addr": {"-profile", "ilo5", "-listen", "localhost"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorContains(t, run(ctx, args, io.Discard, io.Discard, ""), want)
	}
}
