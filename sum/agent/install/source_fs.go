package install

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// Names of the manifest and its signature in the directory of an [FS] source, and of
// the public key for [ReadPublicKey].
const (
	ManifestName  = "manifest.json"
	SignatureName = "manifest.sig"
	PublicKeyName = "manifest.pub"
)

const maxManifest = 1 << 20 // bytes

// Manifest lists agent binaries. It is signed with Ed25519 (RFC 8032); the
// signature covers the bytes of the file manifest.json.
type Manifest struct {
	Version int            `json:"version"` // 1
	Files   []ManifestFile `json:"files"`
}

// ManifestFile is one agent binary.
type ManifestFile struct {
	GOOS   string `json:"goos"`
	GOARCH string `json:"goarch"`
	Name   string `json:"name"` // beside the manifest, slash-separated
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Sign returns the content of manifest.json and of manifest.sig.
func (m Manifest) Sign(key ed25519.PrivateKey) (manifest, signature []byte, err error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, nil, badSource(errors.New("not an Ed25519 private key"), "")
	}
	m.Version = 1
	if manifest, err = json.MarshalIndent(m, "", "  "); err != nil {
		return nil, nil, err
	}
	manifest = append(manifest, '\n')
	signature = base64.StdEncoding.AppendEncode(nil, ed25519.Sign(key, manifest))
	return manifest, append(signature, '\n'), nil
}

// FS returns a Source that takes binaries from a directory with a signed
// [Manifest], such as an embed.FS or an os.DirFS. Files of fsys must be able to
// seek. A directory without a manifest has no binaries; one whose manifest is
// not signed by key, or whose file is not the one in the manifest, is refused
// with transport.ErrTrust.
func FS(fsys fs.FS, key ed25519.PublicKey) Source { return &fsSource{fsys, bytes.Clone(key)} }

// ReadPublicKey reads the public key, in base64, that lies beside a manifest. It
// proves something only where fsys itself cannot be changed, as an embed.FS.
func ReadPublicKey(fsys fs.FS) (ed25519.PublicKey, error) {
	text, err := readSmall(fsys, PublicKeyName)
	if err != nil {
		return nil, badSource(err, "")
	}
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, badSource(errors.New(PublicKeyName+" is not an Ed25519 public key in base64"), "")
	}
	return key, nil
}

type fsSource struct {
	fsys fs.FS
	key  ed25519.PublicKey
}

func (s *fsSource) Open(ctx context.Context, goos, goarch string) (transport.File, error) {
	m, err := s.manifest(goos, goarch)
	if err != nil {
		return transport.File{}, err
	}
	for _, f := range m.Files {
		if f.GOOS == goos && f.GOARCH == goarch {
			return s.file(ctx, f)
		}
	}
	return transport.File{}, noBinary(goos, goarch, nil, "the manifest has none")
}

func (s *fsSource) manifest(goos, goarch string) (*Manifest, error) {
	data, err := readSmall(s.fsys, ManifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noBinary(goos, goarch, err, "")
	}
	if err != nil {
		return nil, &agent.Error{Op: "binary", Err: err}
	}
	if len(s.key) != ed25519.PublicKeySize {
		return nil, badSource(errors.New("no Ed25519 public key to check the manifest with"), "")
	}
	text, err := readSmall(s.fsys, SignatureName)
	if err != nil {
		return nil, badSource(err, "the manifest must be signed: see install.Manifest.Sign")
	}
	sig, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || !ed25519.Verify(s.key, data, sig) {
		return nil, badSource(errors.New("the signature of "+ManifestName+" is wrong"), "")
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil || m.Version != 1 {
		return nil, badSource(fmt.Errorf("%s is not a manifest of version 1", ManifestName), "")
	}
	return &m, nil
}

func (s *fsSource) file(ctx context.Context, f ManifestFile) (transport.File, error) {
	bad := func(format string, args ...any) (transport.File, error) {
		return transport.File{}, badSource(fmt.Errorf("%s: %w", f.Name, fmt.Errorf(format, args...)), "")
	}
	sum, err := hex.DecodeString(f.SHA256)
	if err != nil || len(sum) != 32 || !fs.ValidPath(f.Name) {
		return bad("entry of the manifest makes no sense")
	}
	out := transport.File{Name: agent.BinaryName, Size: f.Size, SHA256: [32]byte(sum),
		Open: func(context.Context) (io.ReadSeekCloser, error) {
			file, err := s.fsys.Open(f.Name)
			if err != nil {
				return nil, err
			}
			if r, ok := file.(io.ReadSeekCloser); ok {
				return r, nil
			}
			file.Close()
			return nil, &fs.PathError{Op: "seek", Path: f.Name, Err: errors.ErrUnsupported}
		}}
	r, err := out.Open(ctx)
	if err != nil {
		return bad("%w", err)
	}
	defer r.Close()
	n, got, err := hashFile(ctx, r)
	if err != nil {
		return transport.File{}, &agent.Error{Op: "binary", Err: err}
	}
	if n != out.Size || got != out.SHA256 {
		return bad("is not the file that the manifest lists")
	}
	return out, nil
}

func readSmall(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err == nil && len(data) > maxManifest {
		err = fmt.Errorf("%s: larger than %d bytes", name, maxManifest)
	}
	return data, err
}
