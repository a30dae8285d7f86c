package main

import (
	"os"
	"runtime"
	"testing"

	"github.com/roundsman-go/roundsman/sum/agent/install"
)

var self install.Self

func TestMain(m *testing.M) {
	self = install.RunAgent() // the copies of the test's program are agents
	os.Exit(m.Run())
}

// TestQuickstart runs the program as a user would; it fails by itself where an
// outcome, or what is left, is not as it should be.
func TestQuickstart(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not run: the agent runs on Linux")
	}
	if err := run(t.Context(), self, t.TempDir()); err != nil {
		t.Fatal(err)
	}
}
