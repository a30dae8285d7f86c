package redfishtest

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/roundsman-go/roundsman/transport"
)

// PackageSpec describes a .fwpkg: a zip with payload.json and images.
type PackageSpec struct {
	Name        string // "" means "package.fwpkg"
	DeviceClass string
	// Images are files of [Image].
	Images []transport.File
	// UpdatableBy are the agents that can apply it; nil means the Bmc. Without the
	// Bmc among them it says that it cannot be flashed directly.
	UpdatableBy   []string
	ResetRequired bool
	// Format is the version of the form: "" means "FWPKG-v2".
	Format string
}

// Package makes a valid .fwpkg. It is in memory as a whole.
func Package(spec PackageSpec) transport.File {
	f, err := newPackage(spec)
	if err != nil {
		panic(fmt.Sprintf("redfishtest: %v", err)) // the images are our own
	}
	return f
}

func newPackage(spec PackageSpec) (transport.File, error) {
	if spec.Name == "" {
		spec.Name = "package.fwpkg"
	}
	if len(spec.UpdatableBy) == 0 {
		spec.UpdatableBy = []string{"Bmc"}
	}
	if spec.Format == "" {
		spec.Format = "FWPKG-v2"
	}
	has := Firmware{UpdatableBy: spec.UpdatableBy}
	p := payloadJSON{DeviceClass: spec.DeviceClass, PackageFormat: spec.Format, UpdatableBy: spec.UpdatableBy}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for n, img := range spec.Images {
		r, err := img.Open(context.Background())
		if err != nil {
			return transport.File{}, err
		}
		defer r.Close()
		c := newChecker()
		w, err := z.CreateHeader(&zip.FileHeader{Name: img.Name, Method: zip.Store})
		if err != nil {
			return transport.File{}, err
		}
		if _, err := io.Copy(io.MultiWriter(w, c), r); err != nil {
			return transport.File{}, err
		}
		m := c.finish(img.Name)
		for _, part := range m.images {
			for _, t := range part.Targets {
				p.Devices.Device = append(p.Devices.Device, payloadDevice{
					DeviceName: img.Name, Target: t, Version: part.Version, MinimumActiveVersion: part.Minimum,
					FirmwareImages: []payloadImage{{
						FileName: img.Name, DirectFlashOk: has.by("Bmc"), UefiFlashable: has.by("Uefi"), ResetRequired: spec.ResetRequired,
						Order: n + 1, InstallDurationSec: 120, Type: "Firmware",
					}},
				})
			}
		}
	}
	w, err := z.Create("payload.json")
	if err != nil {
		return transport.File{}, err
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "    ")
	if err := e.Encode(p); err != nil {
		return transport.File{}, err
	}
	if err := z.Close(); err != nil {
		return transport.File{}, err
	}
	return transport.BytesFile(spec.Name, b.Bytes()), nil
}
