package main

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// passwordText is the text of a password file. What Windows PowerShell writes begins with a
// byte order mark, which is no part of the password: of UTF-8, or of UTF-16 as its redirection
// ("echo ... > file") has it. What is no text would be a wrong password, and is refused, as
// each of those may lock the account.
func passwordText(data []byte) (string, error) {
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

// warnOfReaders warns of password files that others on this host can read. It refuses none,
// as ssh does with keys: what containers mount as secrets is readable for all, in a file
// system that is nobody else's.
func (f *sessionFlags) warnOfReaders(log *slog.Logger) {
	files := slices.Collect(maps.Values(f.passwordFiles))
	files = append(files, f.passwordFile, f.sudoPasswordFile)
	slices.Sort(files)
	for _, name := range slices.Compact(files) {
		if name != "" && readByOthers(name) {
			log.Warn("others on this host can read a password file; take that away, as by chmod 600", "file", name)
		}
	}
}
