package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
)

// newVersion is that of the images, newer than those of every profile.
const newVersion = "99.99"

// writeComponent makes a component of one file for the management processor itself, the
// first entry of the inventory, in a directory.
func writeComponent(ctx context.Context, dir string, srv *redfishtest.Server) error {
	hardware, err := hardwareOf(ctx, srv)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	image := srv.Inventory()[0].Image("firmware.bin", newVersion, 1<<20)
	r, err := image.Open(ctx)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	manifest, err := json.MarshalIndent(map[string]any{
		"name": srv.Inventory()[0].Name, "version": newVersion, "scheme": "hpe", "kinds": []string{string(kindOf(srv))},
		"device": map[string]any{"class": "bmc", "hardware_ids": []string{hardware}, "part": "firmware"},
		"files":  []map[string]any{{"name": image.Name}},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, image.Name), data, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "component.json"), append(manifest, '\n'), 0o644)
}

// hardwareOf is what the driver calls the management processor.
func hardwareOf(ctx context.Context, srv *redfishtest.Server) (_ string, err error) {
	conn, err := (&redfish.Transport{}).Dial(ctx, transport.Endpoint{Address: srv.Addr(), Trust: transport.Trust{SPKI: [][32]byte{srv.SPKI()}},
		Credentials: transport.Credentials{User: srv.User(), Password: transport.NewSecret(srv.Password())}})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	inv, err := transport.ReadInventory(ctx, conn)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(inv.Devices, func(d transport.Device) bool { return d.Class == "bmc" && len(d.HardwareIDs) > 0 })
	if i < 0 {
		return "", errors.New("the inventory names no management processor")
	}
	return inv.Devices[i].HardwareIDs[0], nil
}
