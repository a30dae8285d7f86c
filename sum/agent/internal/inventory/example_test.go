package inventory_test

import (
	"context"
	"fmt"

	"github.com/roundsman-go/roundsman/sum/agent/internal/inventory"
)

func ExampleCollect() {
	inv := inventory.Collect(context.Background())
	fmt.Println("has a name:", inv.Identity.Name != "")
	for _, d := range inv.Devices {
		_ = d.Firmware // and d.Driver, d.DriverVersion, d.HardwareIDs
	}
	// Output: has a name: true
}
