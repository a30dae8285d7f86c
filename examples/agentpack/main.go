// Command agentpack builds agents for several systems into a directory with a
// signed manifest, as install.FS reads it:
//
//	openssl genpkey -algorithm ed25519 -out key.pem
//	go run ./examples/agentpack -key key.pem -o examples/roundsman/agents
//	CGO_ENABLED=0 go build -tags agents ./examples/roundsman
//
// The second command writes the public key beside the manifest, and the third
// makes a program that carries the agents: it needs neither Go nor its own source
// where it runs. The same source and the same Go give the same agents.
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent/install"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := pack(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "agentpack:", err)
		os.Exit(1)
	}
}

func pack(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("agentpack", flag.ContinueOnError)
	dir := flags.String("o", "", "`directory` to write to")
	keyFile := flags.String("key", "", "`file` with an Ed25519 private key, in PEM (PKCS #8)")
	platforms := flags.String("platforms", "linux/amd64,linux/arm64,windows/amd64", "`list` of GOOS/GOARCH")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *dir == "" || *keyFile == "" || flags.NArg() > 0 {
		return errors.New("give -o DIRECTORY and -key FILE, and nothing else but -platforms")
	}
	key, err := readKey(*keyFile)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	var m install.Manifest
	source := &install.GoBuild{}
	for platform := range strings.SplitSeq(*platforms, ",") {
		goos, goarch, ok := strings.Cut(platform, "/")
		if !ok {
			return fmt.Errorf("%q is not GOOS/GOARCH", platform)
		}
		f, err := source.Open(ctx, goos, goarch)
		if err != nil {
			return err
		}
		name := "agent-" + goos + "-" + goarch
		r, err := f.Open(ctx)
		if err != nil {
			return err
		}
		err = write(filepath.Join(*dir, name), 0o755, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		m.Files = append(m.Files, install.ManifestFile{GOOS: goos, GOARCH: goarch, Name: name, Size: f.Size, SHA256: f.Digest()})
		fmt.Fprintf(out, "%s  %s\n", f.Digest(), name)
	}
	manifest, signature, err := m.Sign(key)
	if err != nil {
		return err
	}
	public := base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey)) + "\n"
	for name, content := range map[string]string{install.ManifestName: string(manifest), install.SignatureName: string(signature), install.PublicKeyName: public} {
		if err := write(filepath.Join(*dir, name), 0o644, strings.NewReader(content)); err != nil {
			return err
		}
	}
	return nil
}

// readKey reads what "openssl genpkey -algorithm ed25519" writes.
func readKey(name string) (ed25519.PrivateKey, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s: no private key in PEM", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	signer, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: a key of another kind than Ed25519", name)
	}
	return signer, nil
}

func write(name string, perm os.FileMode, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
