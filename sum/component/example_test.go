package component_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/roundsman-go/roundsman/sum/component"
	"github.com/roundsman-go/roundsman/transport"
)

func ExampleLoad() {
	dir, err := os.MkdirTemp("", "component")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	for name, text := range map[string]string{
		"setup": "#!/bin/sh\nexit 1 # done, a reboot is needed\n",
		"component.json": `{
			"name": "X710 firmware", "version": "10.54.7", "scheme": "hpe", "kinds": ["linux"],
			"device": {"class": "nic", "hardware_ids": ["pci:8086:1572"], "part": "firmware"},
			"files": [{"name": "setup"}],
			"install": ["./setup", "--silent", "{force}"], "rewrite_args": ["--rewrite"],
			"profile": "hpe-linux", "no_kill": true
		}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			fmt.Println(err)
			return
		}
	}

	c, err := component.Load(context.Background(), dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	inv := &transport.Inventory{Devices: []transport.Device{
		{ID: "0000:37:00.0", Class: "nic", Firmware: "10.52.22", HardwareIDs: []string{"pci:8086:1572:103c:22fd", "pci:8086:1572"}},
		{ID: "0000:5c:00.0", Class: "storage-controller", Firmware: "4.11"},
	}}
	for _, f := range c.Current(inv) {
		newer, err := c.Compare(f.Version)
		fmt.Println(f.Subject, f.Version, newer, err)
	}
	fmt.Println(c.Job("9f3c", component.JobOptions{Rewrite: true}).Argv)
	// Output:
	// 0000:37:00.0 10.52.22 1 <nil>
	// [./setup --silent --rewrite]
}
