package smb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf16"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/rrp/winreg/v1"
	"github.com/roundsman-go/roundsman/transport"
)

// Rights and types of MS-RRP, sections 2.2.3 and 2.2.9, and of Win32 the codes that end
// an enumeration.
const (
	keyQueryValue = 0x0001
	keyEnumerate  = 0x0008
	keyRead       = keyQueryValue | keyEnumerate

	regString       = 1
	regExpandString = 2
	regDword        = 4

	winFileNotFound = 2
	winMoreData     = 234
	winNoMoreItems  = 259
)

// Bounds of what is read of a registry.
const (
	maxKeyName = 255 // characters (MS-RRP, section 3.1.1.1)
	maxValue   = 4096
)

// registry is HKEY_LOCAL_MACHINE of the host (MS-RRP), within one call.
type registry struct {
	ctx  context.Context
	cli  winreg.WinregClient
	root *winreg.Key
}

// registry calls f with the registry, over the pipe winreg of the login.
func (k *call) registry(f func(r *registry) error) error {
	reached := false
	err := k.rpc("winreg", func(ctx context.Context, cc dcerpc.Conn) error {
		reached = true
		cli, err := winreg.NewWinregClient(ctx, cc, dcerpc.WithInsecure())
		if err != nil {
			return err
		}
		resp, err := cli.OpenLocalMachine(ctx, &winreg.OpenLocalMachineRequest{DesiredAccess: keyRead})
		if err != nil {
			if resp != nil && resp.Return != 0 {
				return winError(resp.Return)
			}
			return err
		}
		r := &registry{ctx, cli, resp.Key}
		defer r.close(resp.Key)
		return f(r)
	})
	if !reached && errors.Is(err, fs.ErrNotExist) {
		return &transport.Error{Kind: errors.ErrUnsupported, Err: errors.New("the host has no pipe winreg"),
			Hint: "the service RemoteRegistry is disabled there"}
	}
	return err
}

func (r *registry) close(key *winreg.Key) {
	if r.ctx.Err() == nil {
		_, _ = r.cli.BaseRegCloseKey(r.ctx, &winreg.BaseRegCloseKeyRequest{Key: key})
	}
}

// open opens a key below another one. It is fs.ErrNotExist if there is none.
func (r *registry) open(parent *winreg.Key, path string) (*winreg.Key, error) {
	resp, err := r.cli.BaseRegOpenKey(r.ctx, &winreg.BaseRegOpenKeyRequest{Key: parent, SubKey: regName(path), DesiredAccess: keyRead})
	if err != nil {
		if resp != nil && resp.Return != 0 {
			return nil, regError(resp.Return)
		}
		return nil, err
	}
	return resp.ResultKey, nil
}

// regName is a name as the operations want it: with a NUL.
func regName(name string) *winreg.UnicodeString {
	n := uint16(2 * (len(utf16.Encode([]rune(name))) + 1))
	return &winreg.UnicodeString{Buffer: name + "\x00", Length: n, MaximumLength: n}
}

// regError explains a code of an operation on keys.
func regError(code uint32) error {
	e := winError(code)
	if code == winFileNotFound {
		return &transport.Error{Kind: fs.ErrNotExist, Code: e.Code, Err: errors.New("there is no such key or value")}
	}
	return e
}

func trimNUL(s string) string {
	s, _, _ = strings.Cut(s, "\x00")
	return s
}

// keys calls f with the names of the keys below a key, limit at the most.
func (r *registry) keys(key *winreg.Key, limit int, f func(name string) error) error {
	for i := range limit {
		resp, err := r.cli.BaseRegEnumKey(r.ctx, &winreg.BaseRegEnumKeyRequest{Key: key, Index: uint32(i),
			NameIn: &winreg.UnicodeString{MaximumLength: 2 * (maxKeyName + 1)}, ClassIn: &winreg.UnicodeString{}})
		if err != nil {
			if resp == nil || resp.Return == 0 {
				return err
			}
			if resp.Return == winNoMoreItems {
				return nil
			}
			return regError(resp.Return)
		}
		if resp.NameOut == nil {
			return badFrame("a key without a name")
		}
		if err := f(trimNUL(resp.NameOut.Buffer)); err != nil {
			return err
		}
	}
	return fmt.Errorf("there are more than %d keys", limit)
}

// value reads a value: a text, or a number in decimal digits. One that is not there, or
// of another type, is "".
func (r *registry) value(key *winreg.Key, name string) (string, error) {
	resp, err := r.cli.BaseRegQueryValue(r.ctx, &winreg.BaseRegQueryValueRequest{Key: key, ValueName: regName(name),
		Data: make([]byte, maxValue), DataLength: maxValue})
	if err != nil {
		if resp == nil || resp.Return == 0 {
			return "", err
		}
		switch resp.Return {
		case winFileNotFound, winMoreData:
			return "", nil
		}
		return "", regError(resp.Return)
	}
	return regValue(resp.Type, resp.Data), nil
}

func regValue(typ uint32, b []byte) string {
	switch {
	case typ == regString || typ == regExpandString:
		s := make([]uint16, 0, len(b)/2)
		for ; len(b) >= 2; b = b[2:] {
			s = append(s, binary.LittleEndian.Uint16(b))
		}
		return trimNUL(string(utf16.Decode(s)))
	case typ == regDword && len(b) >= 4:
		return fmt.Sprint(binary.LittleEndian.Uint32(b))
	}
	return ""
}

// values reads values by their names into what they point to.
func (r *registry) values(path string, into map[string]*string) error {
	key, err := r.open(r.root, path)
	if err != nil {
		return err
	}
	defer r.close(key)
	for name, s := range into {
		if *s, err = r.value(key, name); err != nil {
			return err
		}
	}
	return nil
}
