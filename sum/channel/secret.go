package channel

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// secret is key material. Every usual way of printing it gives a placeholder;
// only code in this package that asks for the bytes gets them.
type secret []byte

// Format implements fmt.Formatter for every verb: without it %d would print the
// bytes, since a Stringer is not asked for numbers.
func (secret) Format(s fmt.State, _ rune)   { io.WriteString(s, redacted) }
func (secret) String() string               { return redacted }
func (secret) GoString() string             { return redacted }
func (secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
