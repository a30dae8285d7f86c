package install_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"testing/fstest"

	"github.com/roundsman-go/roundsman/sum/agent/install"
	"github.com/roundsman-go/roundsman/transport"
)

// A directory of agent binaries is signed where they are built, and checked by
// every manager that uses it.
func Example() {
	// The build machine.
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	binary := transport.BytesFile("agent-linux-amd64", []byte("\x7fELF..."))
	manifest, signature, err := install.Manifest{Files: []install.ManifestFile{
		{GOOS: "linux", GOARCH: "amd64", Name: binary.Name, Size: binary.Size, SHA256: binary.Digest()},
	}}.Sign(key)
	if err != nil {
		fmt.Println(err)
		return
	}
	shelf := fstest.MapFS{
		install.ManifestName:  {Data: manifest},
		install.SignatureName: {Data: signature},
		"agent-linux-amd64":   {Data: []byte("\x7fELF...")},
	}

	// The manager: the shelf first, and for other systems the go command.
	source := install.First(install.FS(shelf, key.Public().(ed25519.PublicKey)), &install.GoBuild{})
	in := &install.Installer{Source: source}
	file, err := in.Source.Open(context.Background(), "linux", "amd64")
	fmt.Println(file.Size, err)

	shelf["agent-linux-amd64"].Data[1] = 'X'
	_, err = in.Source.Open(context.Background(), "linux", "amd64")
	fmt.Println(err)
	// Output:
	// 7 <nil>
	// agent binary: target identity not trusted: agent-linux-amd64: is not the file that the manifest lists
}
