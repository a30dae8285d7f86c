package inventory

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"

	"github.com/roundsman-go/roundsman/transport"
)

const uninstallKey = `SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall`

// programs lists what is installed for all users, in both views of the registry. No
// installer is asked: that of Windows repairs packages that it is asked about.
func programs(ctx context.Context, out *finds) {
	native := nativeArch()
	type view struct {
		access uint32
		arch   string
	}
	views := []view{{registry.WOW64_64KEY, native}, {registry.WOW64_32KEY, "386"}}
	switch native {
	case "386", "arm":
		views = views[:1]
	case "arm64":
		views[0].arch = "" // programs for amd64 are there, too
	}
	found := map[transport.Software]bool{} // the same key may be in both views
	for _, v := range views {
		err := uninstallEntries(ctx, v.access, func(e uninstallEntry) {
			e.arch = v.arch
			for _, s := range e.software() {
				if !found[s] {
					found[s] = true
					out.installed(s)
				}
			}
		}, out)
		if err != nil && !errors.Is(err, registry.ErrNotExist) {
			out.problem(`HKLM\%s: %v`, uninstallKey, err)
		}
	}
}

func uninstallEntries(ctx context.Context, view uint32, found func(uninstallEntry), out *finds) error {
	list, err := registry.OpenKey(registry.LOCAL_MACHINE, uninstallKey, registry.ENUMERATE_SUB_KEYS|view)
	if err != nil {
		return err
	}
	defer list.Close()
	names, err := list.ReadSubKeyNames(maxSoftware)
	if err != nil && err != io.EOF { // there are fewer
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, err := registry.OpenKey(list, name, registry.QUERY_VALUE|view)
		if errors.Is(err, registry.ErrNotExist) {
			continue // uninstalled by now
		}
		if err != nil {
			out.problem(`HKLM\%s\%s: %v`, uninstallKey, name, err)
			continue
		}
		found(uninstallEntry{
			key: name, display: text(k, "DisplayName"), publisher: text(k, "Publisher"), version: text(k, "DisplayVersion"), packed: number(k, "Version"),
			parent: text(k, "ParentKeyName"), releaseType: text(k, "ReleaseType"), msi: number(k, "WindowsInstaller") == 1,
		})
		k.Close()
	}
	return nil
}

// drivers lists the driver packages that did not come with Windows, those without a
// device included.
func drivers(ctx context.Context, out *finds) {
	root, err := windows.GetSystemWindowsDirectory()
	if err != nil {
		out.problem("%v", err)
		return
	}
	files, err := filepath.Glob(filepath.Join(root, "INF", "oem*.inf"))
	if err != nil {
		out.problem("%v", err)
	}
	found := map[transport.Software]bool{}
	for _, file := range files {
		if ctx.Err() != nil {
			return
		}
		if !publishedINF.MatchString(filepath.Base(file)) {
			continue
		}
		version, err := readINF(file)
		if err != nil {
			if !errors.Is(err, os.ErrNotExist) { // removed by now
				out.problem("%s: %v", file, err)
			}
			continue
		}
		s := transport.Software{Name: originalINF(file), Version: version, Source: sourceINF}
		if !found[s] {
			found[s] = true
			out.installed(s)
		}
	}
}

func readINF(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return infVersion(f)
}

// originalINF returns the name that a driver package's INF file had before Windows
// gave it a number; the number where it does not say.
func originalINF(file string) string {
	published := strings.ToLower(filepath.Base(file))
	p, err := procedure("setupapi.dll", "SetupGetInfDriverStoreLocationW")
	if err != nil {
		return published
	}
	name, err := windows.UTF16PtrFromString(file)
	if err != nil {
		return published
	}
	var buf [1024]uint16
	ok, _, _ := p.Call(uintptr(unsafe.Pointer(name)), 0, 0, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0)
	if ok == 0 {
		return published
	}
	return strings.ToLower(filepath.Base(windows.UTF16ToString(buf[:])))
}
