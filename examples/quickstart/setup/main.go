// Command setup is the installer of the component that the quickstart deploys to its
// Windows server: it copies the image, and then notes the version.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	if err := install(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1)
	}
	fmt.Println("done")
}

func install(dir, version string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	image, err := os.Open("hello.img")
	if err != nil {
		return err
	}
	defer image.Close()
	to, err := os.Create(filepath.Join(dir, "image"))
	if err != nil {
		return err
	}
	n, err := io.Copy(to, image)
	if err != nil {
		_ = to.Close()
		return err
	}
	if err := to.Close(); err != nil {
		return err
	}
	fmt.Println("unpacking", n, "bytes")
	return os.WriteFile(filepath.Join(dir, "VERSION"), []byte(version+"\n"), 0o600)
}
