package install

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"sync"

	"github.com/roundsman-go/roundsman/transport"
)

// packedFiles are the binaries that an Installer has compressed, by their SHA-256: one
// for each platform, however many targets there are. The zero value has none.
type packedFiles struct {
	mu    sync.Mutex
	files map[[sha256.Size]byte]*packedFile
}

// packedFile is compressed by the first who asks; the others wait for that.
type packedFile struct {
	turn chan struct{} // holds one value while nobody compresses it
	data []byte        // nil until it was
}

// gzip gives f as gzip(1) makes it. Nobody may change what it returns.
func (p *packedFiles) gzip(ctx context.Context, f transport.File) ([]byte, error) {
	p.mu.Lock()
	known := p.files[f.SHA256]
	if known == nil {
		known = &packedFile{turn: make(chan struct{}, 1)}
		known.turn <- struct{}{}
		if p.files == nil {
			p.files = make(map[[sha256.Size]byte]*packedFile)
		}
		p.files[f.SHA256] = known
	}
	p.mu.Unlock()
	select {
	case <-known.turn:
		defer func() { known.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if known.data != nil {
		return known.data, nil
	}
	sum := sha256.New()
	data, err := gzipped(ctx, f, sum)
	// A file that is not what it says it is, or does not say, is not kept.
	if err == nil && [sha256.Size]byte(sum.Sum(nil)) == f.SHA256 {
		known.data = data
	}
	return data, err
}

func gzipped(ctx context.Context, f transport.File, sum hash.Hash) ([]byte, error) {
	src, err := f.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := io.Copy(io.MultiWriter(w, sum), src); err != nil {
		return nil, err
	}
	err = w.Close()
	return buf.Bytes(), err
}
