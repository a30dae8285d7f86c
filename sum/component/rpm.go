package component

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/cavaliergopher/rpm"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/version"
	"github.com/roundsman-go/roundsman/transport"
)

// Bounds of the headers of an .rpm. rpm itself allows a store of 256 MB; kernels
// with tens of thousands of files have some 10 MB.
const (
	maxRPMTags  = 4096
	maxRPMStore = 64 << 20
	rpmLead     = 96
)

// Tags of rpmtag.h.
const (
	tagEpoch     = 1003
	tagSourceRPM = 1044
	tagDirnames  = 1118
)

// readRPM reads the headers of an RPM package. The payload is not read.
func readRPM(r io.Reader) (*Component, error) {
	headers, err := rpmHeaders(bufio.NewReader(r))
	if err != nil {
		return nil, fmt.Errorf("damaged package: %w", err)
	}
	p, err := rpm.Read(bytes.NewReader(headers))
	if err != nil {
		return nil, err
	}
	if p.Header.GetTag(tagSourceRPM) == nil {
		return nil, &Error{Kind: ErrInvalid, Err: errors.New("a source package"), Hint: "build it, and give the result"}
	}
	name, arch := p.Name(), p.Architecture()
	ver := p.Version() + "-" + p.Release()
	file := name + "-" + fileSafe(ver) + "." + arch + ".rpm"
	if p.Header.GetTag(tagEpoch) != nil {
		ver = strconv.Itoa(p.Epoch()) + ":" + ver
	}
	if !packageName.MatchString(name) || !version.Valid(version.RPM, ver) || !archName.MatchString(arch) {
		return nil, fmt.Errorf("package %.80q, version %.80q, architecture %.80q: one of them is not valid", name, ver, arch)
	}
	c := &Component{
		Name: name, Version: ver, Scheme: version.RPM, Description: summary(p.Summary()), Kinds: packageKinds,
		Match:   Match{Package: &PackageMatch{Source: RPM, Name: name, Arch: arch}},
		Payload: transport.Payload{Name: name, Version: ver, Files: []transport.File{{Name: file}}},
		// Without these options rpm refuses the same and older versions.
		Install:     []string{"rpm", "-U", Force, "./" + file},
		RewriteArgs: []string{"--replacepkgs"}, DowngradeArgs: []string{"--oldpackage"},
		Profile: agent.ProfileRPM, Timeout: packageTimeout, NoKill: true,
	}
	if program := setupProgram(p); program != "" {
		c.withSetup(program)
	}
	return c, nil
}

// rpmHeaders returns the lead and both headers of a package, after checking what
// the library that parses them takes on trust: that what each entry of an index
// points to lies in the store, and that all of it together is no larger than
// the store, so that a few bytes cannot make it allocate gigabytes.
func rpmHeaders(r io.Reader) ([]byte, error) {
	var out bytes.Buffer
	r = io.TeeReader(r, &out)
	if _, err := io.ReadFull(r, make([]byte, rpmLead)); err != nil {
		return nil, err
	}
	for _, padded := range []bool{true, false} {
		var intro [16]byte
		if _, err := io.ReadFull(r, intro[:]); err != nil {
			return nil, err
		}
		tags, size := binary.BigEndian.Uint32(intro[8:]), binary.BigEndian.Uint32(intro[12:])
		if [4]byte(intro[:4]) != [4]byte{0x8e, 0xad, 0xe8, 1} || tags > maxRPMTags || size > maxRPMStore {
			return nil, fmt.Errorf("a header with %d entries and %d bytes", tags, size)
		}
		index := make([]byte, 16*tags)
		if _, err := io.ReadFull(r, index); err != nil {
			return nil, err
		}
		// Read in pieces: the size is only believed as far as bytes follow.
		var store bytes.Buffer
		if _, err := io.CopyN(&store, r, int64(size)); err != nil {
			return nil, err
		}
		if err := checkIndex(index, store.Bytes()); err != nil {
			return nil, err
		}
		if pad := int64(-size & 7); padded {
			if _, err := io.CopyN(io.Discard, r, pad); err != nil {
				return nil, err
			}
		}
	}
	return out.Bytes(), nil
}

func checkIndex(index, store []byte) error {
	total := 0
	for ; len(index) > 0; index = index[16:] {
		kind := binary.BigEndian.Uint32(index[4:])
		offset, count := int64(binary.BigEndian.Uint32(index[8:])), int64(binary.BigEndian.Uint32(index[12:]))
		if offset >= int64(len(store)) || count < 1 {
			return fmt.Errorf("entry %d is outside", binary.BigEndian.Uint32(index))
		}
		data := store[offset:]
		var length int64
		switch rpm.TagType(kind) {
		case rpm.TagTypeNull:
		case rpm.TagTypeChar, rpm.TagTypeInt8, rpm.TagTypeBinary:
			length = count
		case rpm.TagTypeInt16:
			length = 2 * count
		case rpm.TagTypeInt32:
			length = 4 * count
		case rpm.TagTypeInt64:
			length = 8 * count
		case rpm.TagTypeString, rpm.TagTypeStringArray, rpm.TagTypeI18NString:
			for range count {
				end := bytes.IndexByte(data[length:], 0)
				if end < 0 {
					return fmt.Errorf("entry %d does not end", binary.BigEndian.Uint32(index))
				}
				length += int64(end) + 1
			}
		default:
			return fmt.Errorf("entry %d has the unknown type %d", binary.BigEndian.Uint32(index), kind)
		}
		if length > int64(len(data)) {
			return fmt.Errorf("entry %d is outside", binary.BigEndian.Uint32(index))
		}
		if total += int(length); total > len(store) {
			return errors.New("entries overlap")
		}
	}
	return nil
}
