// Command agent is the small service that package sum/agent/install puts on a
// target. It holds no secrets: its identity comes with each start.
//
//	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o roundsman-agent ./examples/agent
package main

import (
	"os"

	"github.com/roundsman-go/roundsman/sum/agent"
)

func main() { os.Exit(agent.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
