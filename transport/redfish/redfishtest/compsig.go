package redfishtest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// SectionSize is the size of the sections in which components with a signature
// file go to an iLO, in bytes. The last one is what is left.
const SectionSize = 32 << 20

// compsig is a component signature file. Those of HPE's are opaque to clients, and
// so should these be.
type compsig struct {
	File      string `json:"file"`
	Section   int    `json:"section"`
	Sections  int    `json:"sections"`
	Size      int64  `json:"size"`
	SHA256    []byte `json:"sha256"` // of the section
	Signature string `json:"signature,omitempty"`
}

func (c compsig) signed() []byte {
	c.Signature = ""
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // plain data
	}
	return b
}

// Component makes a component whose signature is in a file of its own, as
// Smart Components (.exe, .rpm, .zip) have it: the manager agent of the host
// installs it, iLO can only keep it.
func Component(name string, size int64) transport.File {
	p := newPattern([]byte("redfishtest component\n"), max(size, 32), name)
	f, err := reread(transport.File{Name: name, Size: p.size, Open: p.open})
	if err != nil {
		panic(err) // it is in memory
	}
	return f
}

// Sign makes the signature files of a file: one, named as the file with .compsig
// as its extension, or where the file is larger than SectionSize one for each
// section, named NAME_part1.compsig and so on.
func Sign(f transport.File) ([]transport.File, error) {
	sections, err := Sections(f)
	if err != nil {
		return nil, err
	}
	stem := strings.TrimSuffix(f.Name, path.Ext(f.Name))
	var out []transport.File
	for i, sec := range sections {
		c := compsig{File: f.Name, Section: i, Sections: len(sections), Size: sec.Size, SHA256: sec.SHA256[:]}
		c.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(vendor(), c.signed()))
		b, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		name := stem + ".compsig"
		if len(sections) > 1 {
			name = fmt.Sprintf("%s_part%d.compsig", stem, i+1)
		}
		out = append(out, transport.BytesFile(name, b))
	}
	return out, nil
}

// Sections returns the sections of a file, in order.
func Sections(f transport.File) ([]transport.File, error) {
	if f.Size <= SectionSize {
		return []transport.File{f}, nil
	}
	var out []transport.File
	for off := int64(0); off < f.Size; off += SectionSize {
		sec, err := part(f, f.Name, off, min(SectionSize, f.Size-off))
		if err != nil {
			return nil, err
		}
		out = append(out, sec)
	}
	return out, nil
}

// readCompsig checks the signature of a signature file.
func readCompsig(b []byte) (compsig, error) {
	var c compsig
	if json.Unmarshal(b, &c) != nil {
		return c, bad("UpdateSignatureValidationFailed")
	}
	sig, err := base64.StdEncoding.DecodeString(c.Signature)
	if err != nil || !ed25519.Verify(vendor().Public().(ed25519.PublicKey), c.signed(), sig) {
		return c, bad("UpdateSignatureValidationFailed")
	}
	return c, nil
}

// limited is a buffer for a signature file.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > 1<<20 {
		return 0, errors.New("redfishtest: a signature file of more than 1 MiB")
	}
	return l.Buffer.Write(p)
}
