package install

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// Self is a Source that offers the running program itself, for targets of its
// own system. The copy on the target must become an agent and nothing else, so
// only [RunAgent] gives a Self that works; the zero value has no binaries.
//
// A program that is linked to C libraries runs only on targets that have them:
// build it with CGO_ENABLED=0.
type Self struct{ hooked bool }

// RunAgent makes a program fit to be copied to targets as their agent. Call it
// first in main. In a copy that runs on a target, which it knows by its file
// name, it is the agent and never returns; else it returns a Source that offers
// the program:
//
//	func main() {
//		self := install.RunAgent()
//		installer := &install.Installer{Source: install.First(self, &install.GoBuild{})}
//		...
func RunAgent() Self {
	if isAgent(os.Args) {
		os.Exit(agent.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	return Self{hooked: true}
}

func isAgent(args []string) bool {
	return len(args) > 1 && strings.TrimSuffix(filepath.Base(args[0]), ".exe") == agent.BinaryName
}

// Open implements Source.
func (s Self) Open(ctx context.Context, goos, goarch string) (transport.File, error) {
	if !s.hooked {
		return transport.File{}, noBinary(goos, goarch, errors.New("this program is not made to be an agent"), "call install.RunAgent first in main")
	}
	if goos != runtime.GOOS || goarch != runtime.GOARCH {
		return transport.File{}, noBinary(goos, goarch, nil, "this program is built for "+runtime.GOOS+"/"+runtime.GOARCH)
	}
	name, err := os.Executable()
	if err != nil {
		return transport.File{}, noBinary(goos, goarch, err, "")
	}
	return diskBinary(ctx, name)
}
