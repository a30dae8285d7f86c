package redfishtest

import (
	"context"
	"net/http"

	"github.com/roundsman-go/roundsman/transport"
)

const ilo4UpdatePath = "/redfish/v1/Managers/1/UpdateService"

// ilo4Tree adds what only iLO 4 has: its update service under the manager, the
// inventory under the system, both with the names of Hp. s.mu is held.
func (s *Server) ilo4Tree(t *tree) {
	delete(t.nodes[s.clean("/redfish/v1")], "UpdateService")
	delete(t.nodes[s.clean("/redfish/v1")], "Tasks")
	if t.is(ilo4UpdatePath) {
		s.ilo4Update(t)
	}
	if path := s.systemPath() + "/FirmwareInventory"; t.is(path) {
		s.ilo4Inventory(t, path)
	}
	if sys := t.nodes[s.clean(s.systemPath())]; sys != nil {
		sys["Links"].(object)["FirmwareInventory"] = t.link(s.systemPath() + "/FirmwareInventory")
	}
}

// ilo4Update adds the update service. s.mu is held.
func (s *Server) ilo4Update(t *tree) {
	flash, flags := s.shown()
	state := flash.state
	switch state {
	case "Verifying", "Writing", "Updating":
		state = "PROGRESSING"
	case "Uploading":
		state = "UPLOADING"
	case "Complete":
		state = "COMPLETED"
	case "Error":
		state = "ERROR"
	default:
		state = "IDLE"
	}
	update := object{
		"Id": "UpdateService", "Name": "Firmware Update", "State": state, "ProgressPercent": flash.percent,
		"Flags": flags, "ImageType": "UNKNOWN", "TPMenabled": s.active(TPM), "OpenIloMediaStatus": "NONE",
		"Actions": object{"#HpiLOFirmwareUpdate.InstallFromURI": object{"target": ilo4UpdatePath + "/Actions/HpiLOFirmwareUpdate.InstallFromURI/"}},
	}
	if flash.state == "Error" {
		update["Error"], update["Details"] = s.cfg.Profile.full(flash.message), flash.message
	}
	t.add(ilo4UpdatePath, "#HpiLOFirmwareUpdate.1.0.0.HpiLOFirmwareUpdate", update)
}

// ilo4Inventory adds the firmware inventory. s.mu is held.
func (s *Server) ilo4Inventory(t *tree, path string) {
	current := object{}
	for _, f := range s.firmware {
		o := object{"Name": f.Name, "VersionString": s.listed(f), "Key": f.DeviceClass, "Location": f.Context}
		key := "PCI" + f.ID
		switch f.ID {
		case "1":
			key = "SystemBMC"
		case "2":
			key = "SystemRomActive"
		case "7":
			key = "SystemRomBackup"
		}
		current[key] = []any{o}
	}
	t.add(path, "#FwSwVersionInventory.1.2.0.FwSwVersionInventory", object{"Id": "FirmwareInventory", "Name": "Firmware Version Inventory", "Current": current})
}

// flags tell what makes the last update take effect. s.mu is held.
func (s *Server) flags() string {
	flags := "NONE"
	for _, f := range s.firmware {
		switch {
		case f.Staged == "":
		case f.Flag != "":
			flags = f.Flag
		case f.Activation == transport.ActivationReset:
			flags = "RESET_ILO"
		case f.Activation == transport.ActivationReboot:
			flags = "REQUEST_SYSTEM_WARM_BOOT"
		case f.Activation == transport.ActivationPowerCycle:
			flags = "REQUEST_SYSTEM_COLD_BOOT"
		}
	}
	return flags
}

// installFromURI is InstallFromURI, which HPE's client and the documentation post
// to the service itself.
func (s *Server) installFromURI(x *exchange, r *http.Request, _ Account) error {
	const action = "InstallFromURI"
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	if err := known(action, o, "Action", "FirmwareURI", "TPMOverrideFlag"); err != nil {
		return err
	}
	if a := text(o, "Action"); a != "" && a != action {
		return bad("ActionNotSupported", a)
	}
	uri := text(o, "FirmwareURI")
	if imageURL(uri) == nil {
		return bad("ActionParameterMissing", action, "FirmwareURI")
	}
	if err := s.tpm(r, truth(o, "TPMOverrideFlag")); err != nil {
		return err
	}
	return s.start(x, r, action, func(ctx context.Context) error {
		c, err := s.pull(ctx, uri, "")
		if err != nil {
			return err
		}
		if c.form != rawForm {
			return bad("UpdateInvalidFile")
		}
		if err := s.verify(ctx, c); err != nil {
			return err
		}
		return s.write(ctx, c, "Bmc", nil)
	})
}
