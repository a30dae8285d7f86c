package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionEvent says which program this is.
type versionEvent struct {
	header
	Module   string `json:"module"`
	Version  string `json:"version"`            // of the module, "(devel)" where it has none
	Revision string `json:"revision,omitempty"` // of its version control
	Time     string `json:"time,omitempty"`     // of the revision, RFC 3339
	Modified bool   `json:"modified,omitempty"` // since the revision
	Go       string `json:"go"`
	System   string `json:"system"` // GOOS/GOARCH
}

// newVersionEvent takes what the go command has put into the program.
func newVersionEvent(info *debug.BuildInfo) versionEvent {
	e := versionEvent{header: newHeader("version"), Version: "(devel)", Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
	if info == nil {
		return e
	}
	if e.Module = info.Main.Path; info.Main.Version != "" {
		e.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			e.Revision = s.Value
		case "vcs.time":
			e.Time = s.Value
		case "vcs.modified":
			e.Modified = s.Value == "true"
		}
	}
	return e
}

// String is for people.
func (e versionEvent) String() string {
	s := "roundsman " + e.Version
	if e.Revision != "" {
		s += ", revision " + e.Revision
		if e.Modified {
			s += " and changes"
		}
	}
	return s + ", " + e.Go + ", " + e.System
}

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version [--json]",
		Short: "Say which version this program is",
		Long: `Version prints the version of the module that this program was built from, the
revision of its version control where the go command saw one, and Go's own.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			a.version(asJSON)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object")
	return cmd
}

// version writes which version this program is.
func (a *app) version(asJSON bool) {
	info, _ := debug.ReadBuildInfo()
	e, rep := newVersionEvent(info), newReporter(a.stdout, asJSON, false, nil)
	if asJSON {
		rep.event(e)
	} else {
		rep.line("%s", clean(e.String()))
	}
	a.status = rep.finish(a.stderr, exitFine)
}
