package main

import (
	"fmt"
	"os"

	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/spf13/cobra"
)

// redfishFlags are for targets that speak Redfish.
type redfishFlags struct {
	pins        string
	acceptNew   bool
	authorities []string
	way         string
	tpmOverride bool
	ignoreQueue bool
}

// addTrust adds those that say how such a target proves itself.
func (f *redfishFlags) addTrust(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.pins, "pins", "", "`FILE` with the keys of iLOs and others that speak Redfish (in the user's state directory)")
	s.BoolVar(&f.acceptNew, "accept-new", false, "record the key of such a target in that file when it is seen for the first time, and trust it")
	s.StringArrayVar(&f.authorities, "ca-file", nil, "PEM `FILE` with authorities for their certificates, instead of those of the system; can be repeated")
}

// addUpdates adds those that say how such a target is updated.
func (f *redfishFlags) addUpdates(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.way, "way", "", "the only `WAY` for updates by Redfish, such as simple-update, add-from-uri or hpe-push")
	s.BoolVar(&f.tpmOverride, "tpm-override", false, "change firmware by Redfish although a trusted module would then ask for its recovery key")
	s.BoolVar(&f.ignoreQueue, "ignore-queue", false, "update an iLO although its update queue holds tasks, or another program manages it")
}

// options puts what the flags say into options of the driver.
func (f *redfishFlags) options(o redfish.Options) redfish.Options {
	o.Way, o.TPMOverride, o.IgnoreQueue = redfish.Way(f.way), f.tpmOverride, f.ignoreQueue
	return o
}

// check looks for the files.
func (f *redfishFlags) check() error {
	for _, name := range f.authorities {
		if fi, err := os.Stat(name); err != nil {
			return usageError{fmt.Errorf("--ca-file %s: %w", name, err)}
		} else if fi.IsDir() {
			return usagef("--ca-file %s: it is a directory", name)
		}
	}
	return nil
}
