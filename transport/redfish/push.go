package redfish

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"

	"github.com/roundsman-go/roundsman/transport"
)

// part is one part of a multipart body (RFC 7578): small and in memory, or the file.
type part struct {
	name, file, ctype string
	data              []byte
	section           *section
}

// section is what of a file goes in one request.
type section struct {
	file     transport.File
	off, len int64
}

// body is a request body that is read from the payload as it is sent.
type body struct {
	ctx    context.Context
	head   *bytes.Reader
	sec    section
	tail   *bytes.Reader
	src    io.ReadCloser
	left   int64
	sum    hash.Hash // of the whole file, where it goes in one
	length int64
	sent   func(done int64)
	last   func() error // called before the last byte is handed out
}

// boundary is a separator that does not occur in what it separates, for all practical
// purposes (RFC 2046, section 5.1.1).
func boundary() string { return "roundsman-" + rand.Text() }

// newBody makes a multipart body, parts in the order given; the file is the last.
func newBody(ctx context.Context, sep string, parts []part, sent func(int64), last func() error) (*body, error) {
	var head, tail bytes.Buffer
	b := &body{ctx: ctx, sent: sent, last: last}
	for _, p := range parts {
		fmt.Fprintf(&head, "--%s\r\nContent-Disposition: form-data; name=%q", sep, p.name)
		if p.file != "" {
			fmt.Fprintf(&head, "; filename=\"%s\"", p.file)
		}
		head.WriteString("\r\n")
		if p.ctype != "" {
			fmt.Fprintf(&head, "Content-Type: %s\r\n", p.ctype)
		}
		head.WriteString("\r\n")
		if p.section != nil {
			b.sec = *p.section
			break
		}
		head.Write(p.data)
		head.WriteString("\r\n")
	}
	fmt.Fprintf(&tail, "\r\n--%s--\r\n", sep)
	return b, b.start(head.Bytes(), tail.Bytes())
}

// rawBody is the file alone.
func rawBody(ctx context.Context, s section, sent func(int64), last func() error) (*body, error) {
	b := &body{ctx: ctx, sec: s, sent: sent, last: last}
	return b, b.start(nil, nil)
}

func (b *body) start(head, tail []byte) error {
	src, err := b.sec.file.Open(b.ctx)
	if err != nil {
		return &sourceError{err}
	}
	if _, err := src.Seek(b.sec.off, io.SeekStart); err != nil {
		_ = src.Close()
		return &sourceError{err}
	}
	b.head, b.tail, b.src, b.left = bytes.NewReader(head), bytes.NewReader(tail), src, b.sec.len
	b.length = int64(len(head)) + b.sec.len + int64(len(tail))
	if b.sec.off == 0 && b.sec.len == b.sec.file.Size {
		b.sum = sha256.New()
	}
	return nil
}

// Read implements io.Reader. The last bytes of a file that has changed since it was
// looked at are not handed out: the request remains incomplete.
func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.head.Len() > 0 {
		return b.head.Read(p)
	}
	if b.left > 0 {
		n, err := b.src.Read(p[:min(int64(len(p)), b.left)])
		b.left -= int64(n)
		if b.sum != nil {
			b.sum.Write(p[:n])
		}
		if b.left == 0 && b.sum != nil && [sha256.Size]byte(b.sum.Sum(nil)) != b.sec.file.SHA256 {
			return 0, &sourceError{&transport.Error{Op: "update", Path: b.sec.file.Name, Kind: transport.ErrIntegrity, Err: errors.New("it changed while it was being sent")}}
		}
		if n > 0 {
			if b.left == 0 && b.tail.Len() == 0 {
				if err := b.last(); err != nil {
					return 0, err
				}
			}
			b.sent(b.sec.off + b.sec.len - b.left)
			return n, nil
		}
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, &sourceError{err}
	}
	if b.tail.Len() == 0 {
		return 0, io.EOF
	}
	if err := b.last(); err != nil {
		return 0, err
	}
	return b.tail.Read(p)
}

// Close implements io.Closer.
func (b *body) Close() error { return b.src.Close() }

// baseName is what the target is told as the name of a file.
func baseName(f transport.File) string { return path.Base(f.Name) }

// readSmall reads a signature.
func readSmall(ctx context.Context, f transport.File) ([]byte, error) {
	r, err := f.Open(ctx)
	if err != nil {
		return nil, &sourceError{err}
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxSignature+1))
	if err != nil {
		return nil, &sourceError{err}
	}
	if int64(len(data)) != f.Size {
		return nil, &sourceError{fmt.Errorf("%s has another size than described", f.Name)}
	}
	return data, nil
}
