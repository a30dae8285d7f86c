package smb

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf16"
)

// Bounds of an object of WMI. Those of the classes that are asked for have some dozens of
// properties and some kilobytes.
const (
	maxProperties = 1024
	maxText       = 1024 // bytes of a text; what is longer is cut
	maxTexts      = 64   // of an array
)

// Types of properties (MS-WMIO, section 2.2.82), and flags.
const (
	cimSint8, cimSint16, cimSint32, cimSint64 = 16, 2, 3, 20
	cimUint8, cimUint16, cimUint32, cimUint64 = 17, 18, 19, 21
	cimString, cimBool, cimTime               = 8, 11, 101
	cimArray, cimInherited                    = 0x2000, 0x4000

	objectInstance   = 0x02
	objectDecoration = 0x04
)

// row is an object of WMI: the values of its properties by name, as text. One that is
// null, or of a type that is not needed, is not in it.
type row map[string][]string

// get returns the first value of a property, or "".
func (r row) get(name string) string {
	if v := r[name]; len(v) > 0 {
		return strings.TrimSpace(v[0])
	}
	return ""
}

// size is how many bytes of text a row has.
func (r row) size() (n int) {
	for _, values := range r {
		for _, v := range values {
			n += len(v)
		}
	}
	return n
}

// cursor reads an encoded object. After an error every read is of zeroes.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n uint32) []byte {
	if c.bad || uint64(n) > uint64(len(c.b)) {
		c.bad, c.b = true, nil
		return nil
	}
	p := c.b[:n:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) u8() uint8 {
	if p := c.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if p := c.take(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if p := c.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

// counted takes what follows a length of four bytes that counts itself.
func (c *cursor) counted() []byte {
	n := c.u32()
	if n < 4 {
		c.bad = true
		return nil
	}
	return c.take(n - 4)
}

// heap takes a heap (MS-WMIO, section 2.2.66). The highest bit of its length is set.
func (c *cursor) heap() []byte { return c.take(c.u32() &^ (1 << 31)) }

// skipText passes over an Encoded-String.
func (c *cursor) skipText() {
	wide := c.u8() != 0
	for n := uint16(1); n != 0; {
		if wide {
			n = c.u16()
		} else {
			n = uint16(c.u8())
		}
	}
}

// text reads an Encoded-String (MS-WMIO, section 2.2.78), or the beginning of a long one:
// any number of values may lead to the same.
func (c *cursor) text() string {
	wide := c.u8() != 0
	var s []uint16
	for len(s) < maxText {
		u := uint16(0)
		if wide {
			u = c.u16()
		} else {
			u = uint16(c.u8())
		}
		if u == 0 {
			break
		}
		s = append(s, u)
	}
	return cleanText(string(utf16.Decode(s)))
}

// cleanText makes a text fit for JSON, XML and terminals.
func cleanText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7F && r < 0xA0 || r == 0xFFFD || r == 0xFFFE || r == 0xFFFF {
			return -1
		}
		return r
	}, trimNUL(s))
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

// at is a cursor on what a reference into a heap leads to. Ones with the highest bit set
// lead to words that every class knows, and to no value.
func at(heap []byte, ref uint32) cursor {
	if uint64(ref) >= uint64(len(heap)) {
		return cursor{bad: true}
	}
	return cursor{b: heap[ref:]}
}

// property is one of a class (MS-WMIO, section 2.2.30).
type property struct {
	name   string
	typ    uint32
	order  uint16
	offset uint32
}

// decodeObject reads an instance in the encoding of MS-WMIO, section 2.2.1, with its
// class, and of its properties those that are wanted.
func decodeObject(b []byte, want ...string) (row, error) {
	c := cursor{b: b}
	if c.u32() != 0x12345678 {
		return nil, badFrame("an object of WMI without its signature")
	}
	c = cursor{b: c.take(c.u32())}
	flags := c.u8()
	if flags&objectInstance == 0 {
		return nil, badFrame("an object of WMI that is no instance")
	}
	if flags&objectDecoration != 0 {
		c.skipText() // the server
		c.skipText() // the namespace
	}
	props, size, err := decodeClass(c.counted())
	if err != nil {
		return nil, err
	}
	c = cursor{b: c.counted(), bad: c.bad}
	c.u8()
	c.u32() // the name of the class
	table := cursor{b: c.take(size), bad: c.bad}
	nulls := table.take(uint32(len(props)+3) / 4)
	values := table.b
	c.counted() // qualifiers
	if c.u8() == 2 {
		for range props {
			c.counted()
		}
	}
	heap := c.heap()
	if c.bad || table.bad {
		return nil, badFrame("an object of WMI that ends early")
	}
	out := row{}
	for _, p := range props {
		// Two bits each: null, and the same as in the class (MS-WMIO, section 2.2.26).
		if int(p.order) >= len(props) || nulls[p.order/4]>>(p.order%4*2)&3 != 0 {
			continue
		}
		if out[p.name] != nil || !slices.Contains(want, p.name) {
			continue
		}
		v := at(values, p.offset)
		if s := v.value(p.typ, heap); !v.bad && s != nil {
			out[p.name] = s
		}
	}
	return out, nil
}

// decodeClass reads the properties of a ClassPart (MS-WMIO, section 2.2.15), and the
// length of the values of an instance.
func decodeClass(b []byte) (props []property, size uint32, err error) {
	c := cursor{b: b}
	c.u8()
	c.u32() // its name
	size = c.u32()
	c.counted() // what it derives from
	c.counted() // qualifiers
	n := c.u32()
	if n > maxProperties {
		return nil, 0, badFrame("a class of WMI with %d properties", n)
	}
	lookup := cursor{b: c.take(8 * n)}
	c.take(size) // defaults
	heap := c.heap()
	if c.bad {
		return nil, 0, badFrame("a class of WMI that ends early")
	}
	for range n {
		name, info := at(heap, lookup.u32()), at(heap, lookup.u32())
		p := property{name: name.text(), typ: info.u32() &^ cimInherited, order: info.u16(), offset: info.u32()}
		if name.bad || info.bad {
			return nil, 0, badFrame("a class of WMI with a property that is nowhere")
		}
		props = append(props, p)
	}
	return props, size, nil
}

// value reads a value of a type. It is nil if there is none that is needed.
func (c *cursor) value(typ uint32, heap []byte) []string {
	switch typ {
	case cimString, cimTime:
		v := at(heap, c.u32())
		s := v.text()
		if v.bad {
			return nil
		}
		return []string{s}
	case cimString | cimArray:
		v := at(heap, c.u32())
		var out []string
		for range min(v.u32(), maxTexts) {
			e := at(heap, v.u32())
			if s := e.text(); !e.bad {
				out = append(out, s)
			}
		}
		return out
	case cimBool:
		return []string{fmt.Sprint(c.u16() != 0)}
	case cimSint8:
		return []string{fmt.Sprint(int8(c.u8()))}
	case cimUint8:
		return []string{fmt.Sprint(c.u8())}
	case cimSint16:
		return []string{fmt.Sprint(int16(c.u16()))}
	case cimUint16:
		return []string{fmt.Sprint(c.u16())}
	case cimSint32:
		return []string{fmt.Sprint(int32(c.u32()))}
	case cimUint32:
		return []string{fmt.Sprint(c.u32())}
	case cimSint64, cimUint64:
		lo, hi := uint64(c.u32()), uint64(c.u32())
		if u := hi<<32 | lo; typ == cimUint64 || u <= math.MaxInt64 {
			return []string{fmt.Sprint(u)}
		}
		return []string{fmt.Sprint(int64(hi<<32 | lo))}
	}
	return nil
}
