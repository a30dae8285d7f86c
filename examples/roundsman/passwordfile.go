package main

import (
	"log/slog"
	"maps"
	"slices"
)

// warnOfReaders warns of password files that others on this host can read. It refuses none,
// as ssh does with keys: what containers mount as secrets is readable for all, in a file
// system that is nobody else's.
func (f *sessionFlags) warnOfReaders(log *slog.Logger) {
	files := slices.Collect(maps.Values(f.passwordFiles))
	files = append(files, f.passwordFile, f.sudoPasswordFile)
	slices.Sort(files)
	for _, name := range slices.Compact(files) {
		if name != "" && readByOthers(name) {
			log.Warn("others on this host can read a password file; take that away, as by chmod 600", "file", name)
		}
	}
}
