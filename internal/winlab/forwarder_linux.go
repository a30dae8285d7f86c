package winlab

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
)

// forwarder is a library for windows/amd64 with a single function, which is that of
// another library under another name, as "advapi32.SystemFunction036" (PE Format, "Export
// Address Table"). It has nothing else: a linker would need one of C.
func forwarder(name, function, target string) []byte {
	const (
		headers = 0x200  // their size, and the place of the section in the file
		section = 0x1000 // where the section is in memory
		tables  = section + 40
		text    = tables + 4 + 4 + 4 // behind one function, one name and one ordinal
	)
	targetAt := uint32(text + len(name) + 1)
	functionAt := targetAt + uint32(len(target)) + 1
	var exports bytes.Buffer
	put(&exports, struct { // the export directory table
		Flags, Time, Version, Name, Base, Functions, Names    uint32
		AddressOfFunctions, AddressOfNames, AddressOfOrdinals uint32
	}{Name: text, Base: 1, Functions: 1, Names: 1, AddressOfFunctions: tables, AddressOfNames: tables + 4, AddressOfOrdinals: tables + 8})
	// What lies within the table of exports is no code but the name of a forwarder.
	put(&exports, []uint32{targetAt, functionAt, 0})
	for _, s := range []string{name, target, function} {
		exports.WriteString(s + "\x00")
	}

	var b bytes.Buffer
	b.WriteString("MZ")
	b.Write(make([]byte, 58))
	put(&b, uint32(64)) // where the following is
	b.WriteString("PE\x00\x00")
	put(&b, pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1, SizeOfOptionalHeader: 240,
		Characteristics: pe.IMAGE_FILE_EXECUTABLE_IMAGE | pe.IMAGE_FILE_LARGE_ADDRESS_AWARE | pe.IMAGE_FILE_DLL})
	optional := pe.OptionalHeader64{Magic: 0x20b, SizeOfInitializedData: headers, ImageBase: 0x180000000, SectionAlignment: section, FileAlignment: headers,
		MajorOperatingSystemVersion: 6, MajorSubsystemVersion: 6, SizeOfImage: 2 * section, SizeOfHeaders: headers, Subsystem: pe.IMAGE_SUBSYSTEM_WINDOWS_CUI,
		DllCharacteristics: pe.IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE | pe.IMAGE_DLLCHARACTERISTICS_NX_COMPAT, NumberOfRvaAndSizes: 16}
	optional.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_EXPORT] = pe.DataDirectory{VirtualAddress: section, Size: uint32(exports.Len())}
	put(&b, optional)
	put(&b, pe.SectionHeader32{Name: [8]uint8{'.', 'e', 'd', 'a', 't', 'a'}, VirtualSize: uint32(exports.Len()), VirtualAddress: section,
		SizeOfRawData: headers, PointerToRawData: headers, Characteristics: pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ})
	b.Write(make([]byte, headers-b.Len()))
	exports.WriteTo(&b)
	return append(b.Bytes(), make([]byte, 2*headers-b.Len())...)
}

func put(b *bytes.Buffer, v any) { _ = binary.Write(b, binary.LittleEndian, v) }
