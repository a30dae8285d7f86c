//go:build !windows

package main

import "os"

// enableEscapes reports whether a terminal understands escape sequences.
func enableEscapes(*os.File) bool { return true }
