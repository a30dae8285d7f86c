package install

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// A Source has agent binaries. Implementations are safe for concurrent use.
type Source interface {
	// Open describes the binary for a system, named as Go names it. It fails with
	// agent.ErrNoBinary if the source has none; every other error means that
	// something is wrong with the source, and no other may stand in for it.
	Open(ctx context.Context, goos, goarch string) (transport.File, error)
}

// First returns a Source that asks others in order and takes the first that has
// the binary.
func First(sources ...Source) Source { return first(sources) }

// HasAgent returns nil where the Source has the binary for a system, named as Go names it;
// else its error. See sum.AgentBringer.
func (in *Installer) HasAgent(ctx context.Context, goos, goarch string) error {
	_, err := in.source().Open(ctx, goos, goarch)
	return err
}

// DefaultSource returns what an Installer uses if it is given no Source: the go
// command, for AgentPackage as the module in the current directory has it. That
// trusts the go command, the module proxy and checksum database it uses, and, if
// the current directory is in a checkout of this module, that checkout. It does
// not trust any other module in the current directory: see [GoBuild].
func DefaultSource() Source { return First(&GoBuild{}) }

type first []Source

func (s first) Open(ctx context.Context, goos, goarch string) (transport.File, error) {
	var errs []error
	for _, src := range s {
		f, err := src.Open(ctx, goos, goarch)
		if err == nil || !errors.Is(err, agent.ErrNoBinary) {
			return f, err
		}
		errs = append(errs, err)
	}
	return transport.File{}, noBinary(goos, goarch, errors.Join(errs...), "")
}

func noBinary(goos, goarch string, cause error, hint string) error {
	if cause == nil {
		cause = fmt.Errorf("none for %s/%s", goos, goarch)
	}
	return &agent.Error{Op: "binary", Kind: agent.ErrNoBinary, Err: cause, Hint: hint}
}

func badSource(cause error, hint string) error {
	return &agent.Error{Op: "binary", Kind: transport.ErrTrust, Err: cause, Hint: hint}
}

// diskBinary describes a binary on the manager's disk.
func diskBinary(ctx context.Context, filename string) (transport.File, error) {
	f, err := transport.DiskFile(ctx, agent.BinaryName, filename)
	if err != nil {
		return transport.File{}, &agent.Error{Op: "binary", Err: err}
	}
	return f, nil
}

// machines are the values of e_machine for the architectures that Go builds for
// on Linux (System V ABI, ELF header).
var machines = map[string]struct {
	machine elf.Machine
	class   elf.Class
	data    elf.Data
}{
	"386":      {elf.EM_386, elf.ELFCLASS32, elf.ELFDATA2LSB},
	"amd64":    {elf.EM_X86_64, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"arm":      {elf.EM_ARM, elf.ELFCLASS32, elf.ELFDATA2LSB},
	"arm64":    {elf.EM_AARCH64, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"loong64":  {elf.EM_LOONGARCH, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"mips64":   {elf.EM_MIPS, elf.ELFCLASS64, elf.ELFDATA2MSB},
	"mips64le": {elf.EM_MIPS, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"ppc64":    {elf.EM_PPC64, elf.ELFCLASS64, elf.ELFDATA2MSB},
	"ppc64le":  {elf.EM_PPC64, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"riscv64":  {elf.EM_RISCV, elf.ELFCLASS64, elf.ELFDATA2LSB},
	"s390x":    {elf.EM_S390, elf.ELFCLASS64, elf.ELFDATA2MSB},
}

// checkBinary refuses what cannot run on the target, before any of it is sent.
func checkBinary(ctx context.Context, f transport.File, goos, goarch string) error {
	if err := f.Check(); err != nil {
		return err
	}
	switch goos {
	case "linux":
	case "windows":
		return checkPortable(ctx, f, goarch)
	default:
		return nil
	}
	want, known := machines[goarch]
	if !known {
		return nil
	}
	r, err := f.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	var h [20]byte
	if _, err := io.ReadFull(r, h[:]); err != nil || string(h[:4]) != elf.ELFMAG {
		return noBinary(goos, goarch, errors.New("what the source gave is no ELF program"), "")
	}
	class, data := elf.Class(h[elf.EI_CLASS]), elf.Data(h[elf.EI_DATA])
	var order binary.ByteOrder = binary.LittleEndian
	if data == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	machine := elf.Machine(order.Uint16(h[18:]))
	if machine != want.machine || class != want.class || data != want.data {
		return noBinary(goos, goarch, fmt.Errorf("what the source gave is for %v, %v, %v", machine, class, data), "")
	}
	return nil
}

// portables are the machines of programs for Windows (PE Format, "Machine Types").
var portables = map[string]uint16{
	"386": pe.IMAGE_FILE_MACHINE_I386, "amd64": pe.IMAGE_FILE_MACHINE_AMD64, "arm64": pe.IMAGE_FILE_MACHINE_ARM64,
}

// checkPortable is checkBinary for Windows: a program begins with that of MS-DOS, which
// says at 60 where its own header is.
func checkPortable(ctx context.Context, f transport.File, goarch string) error {
	want, known := portables[goarch]
	if !known {
		return nil
	}
	r, err := f.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	none := noBinary("windows", goarch, errors.New("what the source gave is no program for Windows"), "")
	var dos [64]byte
	if _, err := io.ReadFull(r, dos[:]); err != nil || string(dos[:2]) != "MZ" {
		return none
	}
	if _, err := r.Seek(int64(binary.LittleEndian.Uint32(dos[60:])), io.SeekStart); err != nil {
		return none
	}
	var h [6]byte
	if _, err := io.ReadFull(r, h[:]); err != nil || string(h[:4]) != "PE\x00\x00" {
		return none
	}
	if machine := binary.LittleEndian.Uint16(h[4:]); machine != want {
		return noBinary("windows", goarch, fmt.Errorf("what the source gave is for machine %#04x", machine), "")
	}
	return nil
}

// hashFile reads a file once, for its size and digest.
func hashFile(ctx context.Context, r io.Reader) (int64, [sha256.Size]byte, error) {
	h := sha256.New()
	var n int64
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return n, [sha256.Size]byte{}, err
		}
		k, err := r.Read(buf)
		h.Write(buf[:k])
		n += int64(k)
		if err == io.EOF {
			return n, [sha256.Size]byte(h.Sum(nil)), nil
		}
		if err != nil {
			return n, [sha256.Size]byte{}, err
		}
	}
}
