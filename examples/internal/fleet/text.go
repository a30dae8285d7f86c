package fleet

import (
	"encoding/binary"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Text is the text of a file that people write: a fleet file, or one with a password. What
// Windows writes may begin with a byte order mark, which is no part of it: of UTF-8, as that of
// Notepad, or of UTF-16, as redirection in Windows PowerShell ("echo ... > file") has it. What
// is no text is refused: as a password it would be a wrong one, each of which may lock the
// account.
func Text(data []byte) (string, error) {
	text := string(data)
	switch {
	case strings.HasPrefix(text, "\xff\xfe"):
		return fromUTF16(data[2:], binary.LittleEndian)
	case strings.HasPrefix(text, "\xfe\xff"):
		return fromUTF16(data[2:], binary.BigEndian)
	case strings.ContainsRune(text, 0):
		return "", errors.New("it has NUL bytes, as UTF-16 without a byte order mark does: write it in UTF-8, as Set-Content -Encoding utf8 of PowerShell does")
	case !utf8.ValidString(text):
		return "", errors.New("it is not in UTF-8: write it so, as Set-Content -Encoding utf8 of PowerShell does")
	}
	return strings.TrimPrefix(text, "\ufeff"), nil
}

func fromUTF16(data []byte, order binary.ByteOrder) (string, error) {
	bad := errors.New("it begins as UTF-16 does, and is none: write it in UTF-8")
	if len(data)%2 != 0 {
		return "", bad
	}
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = order.Uint16(data[2*i:])
	}
	text := string(utf16.Decode(units))
	if strings.ContainsRune(text, utf8.RuneError) || strings.ContainsRune(text, 0) {
		return "", bad
	}
	return text, nil
}
