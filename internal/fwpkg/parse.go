package fwpkg

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// written is payload.json. Members are found in upper and lower case: there are
// DirectFlashOk and DirectFlashOK, Package and package.
type written struct {
	PackageFormat, DeviceClass, UpdatableBy, MinimumActiveVersion any

	Devices struct{ Device []writtenDevice }
	Package struct{ Name any } // a text, or one for each language
}

type writtenDevice struct {
	DeviceName, Target, Version, MinimumActiveVersion any

	FirmwareImages []struct {
		FileName, DirectFlashOk, UefiFlashable, ResetRequired, ServerPowerOff, Order any
	}
}

// parse reads payload.json. Its errors go on after that name.
func parse(data []byte) (*Package, error) {
	if len(data) > MaxDescription {
		return nil, fmt.Errorf("has more than %d bytes", MaxDescription)
	}
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	if err := shallow(data); err != nil {
		return nil, err
	}
	var w written
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // a version of 2.10 is not one of 2.1
	if err := dec.Decode(&w); err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("cannot be read: something follows the description")
	}
	p := &Package{
		Format: textOf(w.PackageFormat), Name: english(w.Package.Name), DeviceClass: textOf(w.DeviceClass),
		UpdatableBy: list(w.UpdatableBy), Minimum: minimum(w.MinimumActiveVersion),
	}
	if len(w.Devices.Device) == 0 {
		return nil, errors.New("names no device")
	}
	for _, d := range w.Devices.Device {
		// A device may have several targets, each of which is one here.
		targets := list(d.Target)
		if len(targets) == 0 {
			targets = []string{""}
		}
		for _, target := range targets {
			dev := Device{Name: textOf(d.DeviceName), Target: target, Version: textOf(d.Version), Minimum: minimum(d.MinimumActiveVersion)}
			for _, i := range d.FirmwareImages {
				image := Image{File: textOf(i.FileName), Order: number(i.Order)}
				for _, m := range []struct {
					name    string
					written any
					to      *bool
				}{
					{"DirectFlashOk", i.DirectFlashOk, &image.Direct}, {"UefiFlashable", i.UefiFlashable, &image.UEFI},
					{"ResetRequired", i.ResetRequired, &image.Reset}, {"ServerPowerOff", i.ServerPowerOff, &image.PowerOff},
				} {
					var err error
					if *m.to, err = truth(m.written); err != nil {
						return nil, fmt.Errorf("says of the image %.100q that its %s is %w", image.File, m.name, err)
					}
				}
				dev.Images = append(dev.Images, image)
			}
			if p.Devices = append(p.Devices, dev); len(p.Devices) > MaxDevices {
				return nil, fmt.Errorf("names more than %d devices", MaxDevices)
			}
		}
	}
	images := p.Images()
	if len(images) > MaxImages {
		return nil, fmt.Errorf("names more than %d images", MaxImages)
	}
	for _, name := range images {
		if strings.ContainsAny(name, "/\\\r\n\"\x00") {
			return nil, fmt.Errorf("names the image %.100q, which is no name of a file", name)
		}
	}
	return p, nil
}

// shallow refuses what nests too deep.
func shallow(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	for depth := 0; ; {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil // or cut off, which who decodes it finds
		}
		if err != nil {
			return fmt.Errorf("cannot be read: %w", err)
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxDepth {
				return fmt.Errorf("nests deeper than %d", maxDepth)
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
}

// textOf is a text, or a number as it would be written.
func textOf(v any) string {
	switch v := v.(type) {
	case string:
		return strings.ToValidUTF8(strings.TrimSpace(v), "\uFFFD")
	case json.Number:
		return v.String()
	}
	return ""
}

// list is a list of texts, or one text.
func list(v any) []string {
	many, ok := v.([]any)
	if !ok {
		many = []any{v}
	}
	var out []string
	for _, v := range many {
		if s := textOf(v); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// truth is a truth value, or text or a number that is one. What is not said is false;
// what is neither is an error: a yes that is taken for a no would have an update called done
// that waits for a reboot.
func truth(v any) (bool, error) {
	switch v := v.(type) {
	case nil:
		return false, nil
	case bool:
		return v, nil
	case string, json.Number:
		switch strings.ToLower(textOf(v)) {
		case "true", "yes", "1":
			return true, nil
		case "false", "no", "0", "", "null", "none":
			return false, nil
		}
		return false, fmt.Errorf("%.100q, which is neither yes nor no", textOf(v))
	}
	return false, errors.New("a list or an object, which is neither yes nor no")
}

// number is a number, or text that is one. What is not said is 0.
func number(v any) int {
	n, err := strconv.ParseInt(textOf(v), 10, 32)
	if err != nil {
		return 0
	}
	return int(n)
}

// minimum is a version that must be there. Some write "null" or "none" where there is
// none: what has no digit is no version.
func minimum(v any) string {
	s := textOf(v)
	if !strings.ContainsAny(s, "0123456789") {
		return ""
	}
	return s
}

// english is a text, or the English one of several; or else the first.
func english(v any) string {
	many, ok := v.([]any)
	if !ok {
		return textOf(v)
	}
	first := ""
	for _, v := range many {
		m, _ := v.(map[string]any)
		text := textOf(m["x_late"])
		if strings.HasPrefix(strings.ToLower(textOf(m["lang"])), "en") && text != "" {
			return text
		}
		if first == "" {
			first = text
		}
	}
	return first
}
