//go:build !linux

package ssh_test

import (
	"testing"

	"github.com/roundsman-go/roundsman/internal/realtest"
)

func tmpfs(t *testing.T, _ string) string {
	realtest.Missing(t, "tmpfs")
	return ""
}
