//go:build agents

package main

import (
	"embed"
	"io/fs"

	"github.com/roundsman-go/roundsman/sum/agent/install"
)

// Made by examples/agentpack.
//
//go:embed agents
var agents embed.FS

// embedded has the agents that were built into this program.
func embedded() install.Source {
	dir, err := fs.Sub(agents, "agents")
	if err != nil {
		panic(err) // the name is valid
	}
	key, err := install.ReadPublicKey(dir)
	if err != nil {
		return install.FS(dir, nil) // which refuses, and says why
	}
	return install.FS(dir, key)
}
