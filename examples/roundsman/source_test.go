//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAgentIsThisProgram: what runs on targets must not depend on the directory
// the program is called from.
func TestAgentIsThisProgram(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	cmd := l.command("deploy", "--component", l.component("1", ""), l.target)
	cmd.Dir = t.TempDir()
	sprung := filepath.Join(t.TempDir(), "sprung")
	const module = "github.com/roundsman-go/roundsman"
	for name, content := range map[string]string{
		"go.mod":      "module x\n\ngo 1.26\n\nrequire " + module + " v0.0.0\n\nreplace " + module + " => ./evil\n",
		"evil/go.mod": "module " + module + "\n\ngo 1.26\n",
		"evil/examples/agent/main.go": "package main\n\nimport \"os\"\n\n" +
			"func main() { os.WriteFile(\"" + sprung + "\", nil, 0o600) }\n",
	} {
		name = filepath.Join(cmd.Dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o700))
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "1\n", l.read("VERSION"))
	require.NoFileExists(t, sprung)
	l.clean()
}
