package install

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/roundsman-go/roundsman/internal/realtest"
	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/stretchr/testify/require"
)

// elfHeader is the beginning of a program for the given machine.
func elfHeader(class elf.Class, data elf.Data, machine elf.Machine) []byte {
	h := make([]byte, 64)
	copy(h, elf.ELFMAG)
	h[elf.EI_CLASS], h[elf.EI_DATA], h[elf.EI_VERSION] = byte(class), byte(data), 1
	var order binary.ByteOrder = binary.LittleEndian
	if data == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	order.PutUint16(h[16:], uint16(elf.ET_EXEC))
	order.PutUint16(h[18:], uint16(machine))
	return h
}

// signed is a directory with one binary and a key that signed it.
func signed(t *testing.T, content []byte) (fstest.MapFS, ed25519.PublicKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	f := transport.BytesFile("a", content)
	m, sig, err := Manifest{Files: []ManifestFile{
		{GOOS: "linux", GOARCH: "amd64", Name: "bin/agent", Size: f.Size, SHA256: f.Digest()},
	}}.Sign(key)
	require.NoError(t, err)
	return fstest.MapFS{ManifestName: {Data: m}, SignatureName: {Data: sig}, "bin/agent": {Data: content}}, pub
}

func TestFSGivesWhatIsSigned(t *testing.T) {
	content := bytes.Repeat([]byte("agent"), 100_000)
	dir, key := signed(t, content)
	src := FS(dir, key)
	f, err := src.Open(t.Context(), "linux", "amd64")
	require.NoError(t, err)
	require.NoError(t, f.Check())
	r, err := f.Open(t.Context())
	require.NoError(t, err)
	defer r.Close()
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, content, got)
	require.Equal(t, transport.BytesFile("", content).SHA256, f.SHA256)

	_, err = src.Open(t.Context(), "linux", "arm64")
	require.ErrorIs(t, err, agent.ErrNoBinary)
	_, err = FS(fstest.MapFS{}, key).Open(t.Context(), "linux", "amd64")
	require.ErrorIs(t, err, agent.ErrNoBinary)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = src.Open(ctx, "linux", "amd64")
	require.ErrorIs(t, err, context.Canceled)
}

func TestFSRefuses(t *testing.T) {
	other, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for name, spoil := range map[string]func(fstest.MapFS, *ed25519.PublicKey){
		"no signature":      func(d fstest.MapFS, _ *ed25519.PublicKey) { delete(d, SignatureName) },
		"empty signature":   func(d fstest.MapFS, _ *ed25519.PublicKey) { d[SignatureName].Data = nil },
		"no base64":         func(d fstest.MapFS, _ *ed25519.PublicKey) { d[SignatureName].Data = []byte("!") },
		"another key":       func(_ fstest.MapFS, k *ed25519.PublicKey) { *k = other },
		"no key":            func(_ fstest.MapFS, k *ed25519.PublicKey) { *k = nil },
		"changed manifest":  func(d fstest.MapFS, _ *ed25519.PublicKey) { d[ManifestName].Data[3] ^= 1 },
		"changed binary":    func(d fstest.MapFS, _ *ed25519.PublicKey) { d["bin/agent"].Data[0] ^= 1 },
		"longer binary":     func(d fstest.MapFS, _ *ed25519.PublicKey) { d["bin/agent"].Data = append(d["bin/agent"].Data, 0) },
		"missing binary":    func(d fstest.MapFS, _ *ed25519.PublicKey) { delete(d, "bin/agent") },
		"manifest too long": func(d fstest.MapFS, _ *ed25519.PublicKey) { d[ManifestName].Data = make([]byte, maxManifest+1) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, key := signed(t, []byte("agent"))
			spoil(dir, &key)
			src := FS(dir, key)
			_, err := src.Open(t.Context(), "linux", "amd64")
			require.Error(t, err)
			require.NotErrorIs(t, err, agent.ErrNoBinary, "no other source may stand in")
			if name != "manifest too long" {
				require.ErrorIs(t, err, transport.ErrTrust)
			}
			_, err = First(src, sourceFunc(func() (transport.File, error) { return transport.BytesFile("x", nil), nil })).Open(t.Context(), "linux", "amd64")
			require.Error(t, err)
		})
	}
}

type sourceFunc func() (transport.File, error)

func (f sourceFunc) Open(context.Context, string, string) (transport.File, error) { return f() }

func TestFirst(t *testing.T) {
	none := sourceFunc(func() (transport.File, error) {
		return transport.File{}, noBinary("linux", "amd64", errors.New("shelf is empty"), "")
	})
	has := sourceFunc(func() (transport.File, error) { return transport.BytesFile("x", []byte("y")), nil })
	f, err := First(none, has).Open(t.Context(), "linux", "amd64")
	require.NoError(t, err)
	require.Equal(t, "x", f.Name)
	_, err = First(none, none).Open(t.Context(), "linux", "amd64")
	require.ErrorIs(t, err, agent.ErrNoBinary)
	require.Contains(t, err.Error(), "shelf is empty")
	_, err = First().Open(t.Context(), "linux", "amd64")
	require.ErrorIs(t, err, agent.ErrNoBinary)
}

func TestSelf(t *testing.T) {
	_, err := Self{}.Open(t.Context(), runtime.GOOS, runtime.GOARCH)
	require.ErrorIs(t, err, agent.ErrNoBinary, "a program without the hook would do its own work on the target")
	_, err = Self{hooked: true}.Open(t.Context(), "plan9", runtime.GOARCH)
	require.ErrorIs(t, err, agent.ErrNoBinary)
	f, err := Self{hooked: true}.Open(t.Context(), runtime.GOOS, runtime.GOARCH)
	require.NoError(t, err)
	exe, err := os.Executable()
	require.NoError(t, err)
	fi, err := os.Stat(exe)
	require.NoError(t, err)
	require.Equal(t, fi.Size(), f.Size)

	require.True(t, isAgent([]string{"/opt/x/roundsman-agent", "serve"}))
	require.False(t, isAgent([]string{"/opt/x/roundsman-agent"}))
	require.False(t, isAgent([]string{"roundsman", "roundsman-agent"}))
	require.False(t, isAgent(nil))
}

func TestCheckBinary(t *testing.T) {
	file := func(b []byte) transport.File { return transport.BytesFile("a", b) }
	amd := file(elfHeader(elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_X86_64))
	require.NoError(t, checkBinary(t.Context(), amd, "linux", "amd64"))
	require.ErrorIs(t, checkBinary(t.Context(), amd, "linux", "arm64"), agent.ErrNoBinary)
	require.ErrorIs(t, checkBinary(t.Context(), amd, "linux", "386"), agent.ErrNoBinary)
	s390 := file(elfHeader(elf.ELFCLASS64, elf.ELFDATA2MSB, elf.EM_S390))
	require.NoError(t, checkBinary(t.Context(), s390, "linux", "s390x"))
	le := file(elfHeader(elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_PPC64))
	require.ErrorIs(t, checkBinary(t.Context(), le, "linux", "ppc64"), agent.ErrNoBinary)
	require.ErrorIs(t, checkBinary(t.Context(), file([]byte("#!/bin/sh\n")), "linux", "amd64"), agent.ErrNoBinary)
	require.ErrorIs(t, checkBinary(t.Context(), file(nil), "linux", "amd64"), agent.ErrNoBinary)
	require.Error(t, checkBinary(t.Context(), transport.File{Name: "x"}, "linux", "amd64"))
}

// module writes a program that needs no other package, so that it builds fast.
func module(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.org/tiny\n\ngo 1.26\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() { println(\"tiny\") }\n"), 0o600))
	return dir
}

func TestGoBuildIsDeterministic(t *testing.T) {
	real := realtest.Need(t, "go")
	if runtime.GOOS == "windows" {
		t.Skip("not run: needs a POSIX shell")
	}
	t.Parallel()
	var sums []string
	for i := range 2 {
		g := &GoBuild{Dir: module(t), Package: ".", CacheDir: t.TempDir()}
		if i == 1 && !testing.Short() { // nothing is shared but the compiler
			g.Go = filepath.Join(t.TempDir(), "go")
			require.NoError(t, os.WriteFile(g.Go, []byte("#!/bin/sh\nGOCACHE='"+t.TempDir()+"' exec "+real+" \"$@\"\n"), 0o700))
		}
		f, err := g.Open(t.Context(), "linux", "arm64")
		require.NoError(t, err)
		require.NoError(t, checkBinary(t.Context(), f, "linux", "arm64"))
		sums = append(sums, f.Digest())
		entries, err := os.ReadDir(filepath.Join(g.CacheDir, "roundsman", "agents"))
		require.NoError(t, err)
		require.Len(t, entries, 1, "no directory of the build is left")
	}
	require.Equal(t, sums[0], sums[1])
}

func TestGoBuildOnceForConcurrentCallers(t *testing.T) {
	real := realtest.Need(t, "go")
	if runtime.GOOS == "windows" {
		t.Skip("not run: needs a POSIX shell")
	}
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	wrapper := filepath.Join(dir, "go")
	require.NoError(t, os.WriteFile(wrapper, []byte("#!/bin/sh\necho x >> "+calls+"\nexec "+real+" \"$@\"\n"), 0o700))
	g := &GoBuild{Dir: module(t), Package: ".", Go: wrapper, CacheDir: t.TempDir()}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			f, err := g.Open(t.Context(), runtime.GOOS, runtime.GOARCH)
			if err != nil || f.Size == 0 {
				t.Error(f.Size, err)
			}
		})
	}
	wg.Wait()
	got, err := os.ReadFile(calls)
	require.NoError(t, err)
	require.Equal(t, "x\n", string(got))
}

func TestGoBuildFails(t *testing.T) {
	realtest.Need(t, "go")
	dir := module(t)
	g := &GoBuild{Dir: dir, Package: "./missing", CacheDir: t.TempDir()}
	_, err := g.Open(t.Context(), "linux", "amd64")
	require.ErrorIs(t, err, agent.ErrNoBinary)
	require.Contains(t, err.Error(), "missing", "what go says is told")

	_, err = (&GoBuild{Go: filepath.Join(dir, "no-such-go"), CacheDir: t.TempDir()}).Open(t.Context(), "linux", "amd64")
	require.ErrorIs(t, err, agent.ErrNoBinary)
	require.ErrorIs(t, err, os.ErrNotExist)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = g.Open(ctx, "linux", "amd64")
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, agent.ErrNoBinary)

	// A failure is not remembered.
	require.NoError(t, os.Mkdir(filepath.Join(dir, "missing"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "missing", "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o600))
	_, err = g.Open(t.Context(), "linux", "amd64")
	require.NoError(t, err)
}

func TestPruneDeletesOnlyWhatIsOldAndOurs(t *testing.T) {
	dir := t.TempDir()
	binary := func(c string) string { return agent.BinaryName + "-linux-amd64-" + strings.Repeat(c, 16) }
	keep := []string{"a-thesis", "roundsman-build-notes", binary("c"), binary("d"), binary("e") + ".bak", binary("f")}
	old := []string{binary("a"), "roundsman-build-123"}
	for _, name := range append(slices.Clone(keep), old...) {
		name = filepath.Join(dir, name)
		if strings.Contains(name, "build") || strings.Contains(name, "thesis") || strings.HasSuffix(name, "ffff") {
			require.NoError(t, os.Mkdir(name, 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(name, "x"), nil, 0o600))
		} else {
			require.NoError(t, os.WriteFile(name, nil, 0o600))
		}
		if !strings.HasSuffix(name, "dddd") { // the only new one
			long := time.Now().Add(-2 * keepBuilds)
			require.NoError(t, os.Chtimes(name, long, long))
		}
	}
	prune(dir, filepath.Join(dir, binary("c")))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	require.ElementsMatch(t, keep, names)
}

func TestGoBuildLeavesWhatIsInItsCacheDir(t *testing.T) {
	realtest.Need(t, "go")
	g := &GoBuild{Dir: module(t), Package: ".", CacheDir: t.TempDir()}
	mine := filepath.Join(g.CacheDir, "my-thesis")
	require.NoError(t, os.Mkdir(mine, 0o700))
	long := time.Now().Add(-2 * keepBuilds)
	require.NoError(t, os.Chtimes(mine, long, long))
	_, err := g.Open(t.Context(), "linux", "amd64")
	require.NoError(t, err)
	require.DirExists(t, mine)

	// Being asked for keeps a binary, also in a program that runs for months.
	names, err := filepath.Glob(filepath.Join(g.CacheDir, "roundsman", "agents", "*"))
	require.NoError(t, err)
	require.Len(t, names, 1)
	require.NoError(t, os.Chtimes(names[0], long, long))
	_, err = g.Open(t.Context(), "linux", "amd64")
	require.NoError(t, err)
	require.True(t, fileTime(t, names[0]).After(long))
	// One that somebody deleted is built again.
	require.NoError(t, os.Remove(names[0]))
	f, err := g.Open(t.Context(), "linux", "amd64")
	require.NoError(t, err)
	require.NoError(t, checkBinary(t.Context(), f, "linux", "amd64"))
}

// TestGoBuildTrustsNoOtherModule: whoever wrote the go.mod of the current
// directory must not choose what runs on targets.
func TestGoBuildTrustsNoOtherModule(t *testing.T) {
	realtest.Need(t, "go")
	const evil = "package main\n\nfunc main() { println(\"another agent\") }\n"
	for name, files := range map[string]map[string]string{
		"replace": {
			"go.mod":      "module x\n\ngo 1.26\n\nrequire " + modulePath + " v0.0.0\n\nreplace " + modulePath + " => ./evil\n",
			"evil/go.mod": "module " + modulePath + "\n\ngo 1.26\n", "evil/examples/agent/main.go": evil,
		},
		"nested module": {"go.mod": "module " + modulePath + "/examples\n\ngo 1.26\n", "agent/main.go": evil},
		"workspace": {
			"go.mod": "module x\n\ngo 1.26\n", "go.work": "go 1.26\n\nuse (\n\t.\n\t./evil\n)\n",
			"evil/go.mod": "module " + modulePath + "\n\ngo 1.26\n", "evil/examples/agent/main.go": evil,
		},
		"vendor": {
			"go.mod":             "module x\n\ngo 1.26\n\nrequire " + modulePath + " v0.0.0\n",
			"vendor/modules.txt": "# " + modulePath + " v0.0.0\n## explicit; go 1.26\n" + AgentPackage + "\n", "vendor/" + AgentPackage + "/main.go": evil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOPROXY", "off")
			t.Setenv("GOFLAGS", "-mod=mod")
			dir := t.TempDir()
			for file, content := range files {
				file = filepath.Join(dir, file)
				require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
				require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
			}
			t.Chdir(dir)
			_, err := (&GoBuild{CacheDir: t.TempDir()}).Open(t.Context(), "linux", "amd64")
			require.Error(t, err)
			if name == "replace" || name == "nested module" {
				require.ErrorIs(t, err, transport.ErrTrust)
				require.NotErrorIs(t, err, agent.ErrNoBinary)
			} else {
				require.ErrorIs(t, err, agent.ErrNoBinary, "what nobody vouches for is not seen at all")
			}
		})
	}
}

func TestCheckModules(t *testing.T) {
	pkg := func(path, module string) string {
		return `{"ImportPath": "` + path + `", "Module": {` + module + "}}\n"
	}
	const std = `{"ImportPath": "fmt"}` + "\n"
	ours := pkg(AgentPackage, `"Path": "`+modulePath+`"`)
	checkout := pkg(AgentPackage, `"Path": "`+modulePath+`", "Main": true`)
	replaced := pkg("golang.org/x/sys/unix", `"Path": "golang.org/x/sys", "Replace": {"Path": "../sys"}`)
	require.NoError(t, checkModules([]byte(std+pkg("golang.org/x/sys/unix", `"Path": "golang.org/x/sys"`)+ours)))
	require.NoError(t, checkModules([]byte(replaced+checkout)), "a checkout of ours is trusted as it is")
	require.ErrorIs(t, checkModules([]byte(replaced+ours)), transport.ErrTrust)
	require.ErrorIs(t, checkModules([]byte(pkg("golang.org/x/sys/unix", `"Path": "golang.org/x/sys", "Main": true`)+ours)), transport.ErrTrust)
	require.Error(t, checkModules([]byte(std)))
	require.Error(t, checkModules([]byte("{")))
}
