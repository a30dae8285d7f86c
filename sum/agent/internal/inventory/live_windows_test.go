package inventory

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"

	"github.com/roundsman-go/roundsman/transport"
)

// TestWindows reads the Windows that it runs on. It writes what it finds, and the
// GUIDs of network connections by their names, into the file that INVENTORY_FILE names.
func TestWindows(t *testing.T) {
	inv := Collect(context.Background())
	require.Equal(t, "windows", inv.Identity.OS)
	name, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, name, inv.Identity.Name)
	require.NotEmpty(t, inv.Identity.Version)
	require.NotEmpty(t, inv.Identity.Arch)
	require.Regexp(t, `^[0-9]+\.[0-9]+\.[0-9]+`, inv.Identity.Kernel)
	devices := map[string]bool{}
	for _, d := range inv.Devices {
		require.NotEmpty(t, d.ID)
		require.NotEmpty(t, d.Class)
		require.False(t, devices[d.ID], "two devices %s", d.ID)
		devices[d.ID] = true
	}
	software := map[transport.Software]bool{}
	for _, s := range inv.Software {
		require.NotEmpty(t, s.Name)
		require.False(t, software[s], "twice: %v", s)
		software[s] = true
	}
	require.Equal(t, inv, Collect(context.Background()), "the same host gives the same inventory")
	if file := os.Getenv("INVENTORY_FILE"); file != "" {
		adapters, err := networkAdapters()
		require.NoError(t, err)
		connections := map[string]string{}
		for guid, a := range adapters {
			connections[a.name] = guid
		}
		data, err := json.Marshal(map[string]any{"inventory": inv, "connections": connections})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, data, 0o600))
	}
}

// TestWindowsFirmwareResources makes a table in the part of the registry that every user
// has.
func TestWindowsFirmwareResources(t *testing.T) {
	const path, guid = `Software\roundsman-test-esrt`, "{00112233-4455-6677-8899-aabbccddeeff}"
	table, _, err := registry.CreateKey(registry.CURRENT_USER, path, registry.ALL_ACCESS)
	require.NoError(t, err)
	defer table.Close()
	defer registry.DeleteKey(registry.CURRENT_USER, path)
	for _, name := range []string{guid, "{other}"} {
		k, _, err := registry.CreateKey(table, name, registry.ALL_ACCESS)
		require.NoError(t, err)
		defer k.Close()
		defer registry.DeleteKey(table, name)
		if name == guid {
			require.NoError(t, k.SetDWordValue("Version", 65539))
		}
	}
	out := &finds{part: "devices"}
	require.Equal(t, map[string]uint32{strings.ToUpper(guid): 65539}, firmwareResources(registry.CURRENT_USER, path, out))
	require.Len(t, out.problems, 1)
	require.Contains(t, out.problems[0].Text, path+`\{other}: Version: `)

	out = &finds{}
	require.Empty(t, firmwareResources(registry.CURRENT_USER, path+`\none`, out))
	require.Empty(t, out.problems)
}

func TestWindowsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	inv := Collect(ctx)
	require.Empty(t, inv.Software)
	for _, d := range inv.Devices {
		require.Equal(t, "bios", d.Class, "which is read at once")
	}
	require.Contains(t, inv.Problems, transport.Problem{Part: "devices", Text: "not finished: context canceled"})
}

func TestWindowsRoot(t *testing.T) {
	inv := Options{Root: `D:\other`}.Collect(context.Background())
	require.Equal(t, []transport.Problem{{Part: "root", Text: `only the running Windows can be read, and not one at D:\other`}}, inv.Problems)
}

func TestWindowsDrives(t *testing.T) {
	names, err := driveNames()
	require.NoError(t, err)
	for _, name := range names {
		require.True(t, strings.HasPrefix(name, "PhysicalDrive"), name)
	}
	_, err = askDisk("PhysicalDrive999999")
	require.ErrorIs(t, err, windows.ERROR_FILE_NOT_FOUND)
	_, err = procedure("kernel32.dll", "NoSuchFunction")
	require.Error(t, err)
}
