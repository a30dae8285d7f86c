//go:build !linux

package main

import (
	"context"
	"errors"

	"github.com/roundsman-go/roundsman/sum/agent/install"
)

// windowsServer is there on Linux only.
func windowsServer(string, install.Source) maker {
	return maker{name: "Windows", make: func(context.Context) ([]*machine, error) {
		return nil, &leftOut{errors.New("Samba and Wine are started on Linux only")}
	}}
}
