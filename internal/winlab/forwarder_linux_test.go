package winlab_test

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"testing"

	"github.com/roundsman-go/roundsman/internal/winlab"
)

// TestForwarder reads the library as a loader does. That Wine takes it is shown by
// TestServices, whose helper needs it where Wine has none.
func TestForwarder(t *testing.T) {
	f, err := pe.NewFile(bytes.NewReader(winlab.Forwarder("a.dll", "Here", "b.There")))
	if err != nil {
		t.Fatal(err)
	}
	optional, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 || len(f.Sections) != 1 {
		t.Fatalf("%+v", f.FileHeader)
	}
	data, err := f.Sections[0].Data()
	if err != nil {
		t.Fatal(err)
	}
	base := f.Sections[0].VirtualAddress
	number := func(rva uint32) uint32 { return binary.LittleEndian.Uint32(data[rva-base:]) }
	text := func(rva uint32) string {
		s, _, _ := bytes.Cut(data[rva-base:], []byte{0})
		return string(s)
	}
	exports := optional.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_EXPORT]
	table := exports.VirtualAddress
	if got := text(number(table + 12)); got != "a.dll" {
		t.Fatal(got)
	}
	function := number(number(table + 28))
	if got := text(function); got != "b.There" || function < table || function >= table+exports.Size {
		t.Fatalf("%q at %#x", got, function)
	}
	if got := text(number(number(table + 32))); got != "Here" {
		t.Fatal(got)
	}
}
