//go:build !agents

package main

import "github.com/roundsman-go/roundsman/sum/agent/install"

// embedded has nothing: this program was built without agents.
func embedded() install.Source { return install.First() }
