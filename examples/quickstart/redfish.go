package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
)

// iLO is the management processor of one server, to which its firmware is pushed. Nothing
// is asked of the server itself, which goes on to run.
func iLO(dir string) maker {
	return simulated(sum.ILO, "iLO", redfishtest.ILO5, firmware{
		dir: filepath.Join(dir, "ilo-component"), file: "ilo5_310.bin", version: "3.10",
	})
}

// superdomeFlex is the management controller of a complex, which fetches a bundle for all
// parts of the complex from the manager, over https.
func superdomeFlex(dir string) maker {
	return simulated(sum.SuperdomeFlex, "Flex", redfishtest.RMC, firmware{
		dir: filepath.Join(dir, "flex-component"), file: "sd-flex-3.50.58-fw.tars", version: "3.50.58",
	})
}

// simulated is a management processor in this process, which speaks Redfish.
func simulated(kind sum.Kind, name string, profile redfishtest.Profile, fw firmware) maker {
	return maker{kind, name, "simulated, in this process", func(ctx context.Context) ([]*machine, error) {
		// Steps that take minutes on real ones, but can be watched.
		srv, err := redfishtest.NewServer(redfishtest.Config{Profile: profile, Pace: 100 * time.Millisecond})
		if err != nil {
			return nil, err
		}
		m := &machine{
			target:    sum.Target{Name: strings.ToLower(name), Kind: kind, User: srv.User(), Address: srv.Addr()},
			transport: transport.Retry(&redfish.Transport{}, transport.RetryOptions{}),
			endpoint: transport.Endpoint{
				Address:     srv.Addr(),
				Credentials: transport.Credentials{User: srv.User(), Password: transport.NewSecret(srv.Password())},
				Trust:       transport.Trust{SPKI: [][32]byte{srv.SPKI()}},
				Options:     redfish.Options{PollInterval: 100 * time.Millisecond},
			},
			want:    sum.Updated,
			nothing: "no session, no subscription, no component and no task",
			host:    processor{srv},
		}
		m.component, err = fw.component(ctx, kind, srv.Inventory()[0])
		return []*machine{m}, err
	}}
}

// firmware is an image of 8 MiB for a management processor.
type firmware struct{ dir, file, version string }

// component is the image with a manifest, which says what it is for.
func (f firmware) component(ctx context.Context, kind sum.Kind, part redfishtest.Firmware) (*component.Component, error) {
	if err := os.Mkdir(f.dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := redfishtest.Save(part.Image(f.file, f.version, 8<<20), f.dir); err != nil {
		return nil, err
	}
	hardware := "hpe-target:" + part.Targets[0]
	if kind == sum.SuperdomeFlex {
		hardware = "name:" + part.Name // which names no targets
	}
	manifest := fmt.Sprintf(`{
  "name": %q,
  "version": %q,
  "scheme": "hpe",
  "kinds": [%q],
  "device": {"class": "bmc", "hardware_ids": [%q], "part": "firmware"},
  "files": [{"name": %q}]
}
`, part.Name, f.version, kind, hardware, f.file)
	return load(ctx, f.dir, map[string][]byte{"component.json": []byte(manifest)})
}

// processor is a management processor, for whoever looks into it.
type processor struct{ *redfishtest.Server }

func (p processor) close() error { return p.Close() }

// remains lists sessions, subscriptions to events, and what was uploaded or queued, once
// the processor has done what it had begun.
func (p processor) remains(ctx context.Context) (left remains, err error) {
	if err := p.Idle(ctx); err != nil {
		return left, err
	}
	if n := p.Sessions(); n > 0 {
		left.rest = append(left.rest, fmt.Sprint(n, " sessions"))
	}
	for _, to := range p.Subscriptions() {
		left.rest = append(left.rest, "subscription of "+to)
	}
	for _, name := range slices.Concat(p.Components(), p.InstallSets()) {
		left.rest = append(left.rest, "component or install set "+name)
	}
	for _, t := range p.Queue() {
		left.rest = append(left.rest, "task "+t.Name)
	}
	return left, nil
}
