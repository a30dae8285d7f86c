package redfishtest

import (
	"context"
	"net/http"
	"slices"
	"strings"
)

func (s *Server) updateAllPath() string {
	if s.cfg.OtherActions {
		return updatePath + "/Actions/Oem/SD.UpdateAll"
	}
	return updatePath + "/Actions/SDFlexUpdateService.UpdateAll"
}

// rmcTree adds the update service of a Superdome Flex, which has no SimpleUpdate.
// s.mu is held.
func (s *Server) rmcTree(t *tree) {
	if root := t.nodes[s.clean("/redfish/v1")]; root != nil {
		root["RedfishVersion"] = "1.0.2"
	}
	if sys := t.nodes[s.clean(s.systemPath())]; sys != nil {
		sys["Name"], sys["SystemType"] = "Npar 1", "PhysicallyPartitioned"
		sys["Oem"] = object{"Hpe": object{"@odata.type": "#HpeNpar.v1_0_0.HpeNpar", "ProductId": "1590PID03020101"}}
	}
	if !t.is(updatePath) {
		return
	}
	action := object{"target": s.updateAllPath(), "@Redfish.ActionInfo": updatePath + "/UpdateAllActionInfo"}
	oem := object{"Hpe": object{"#SDFlexUpdateService.UpdateAll": action}}
	if s.cfg.OtherActions {
		oem = object{"#SD.UpdateAll": action}
	}
	t.add(updatePath, "#UpdateService.v1_2_0.UpdateService", object{
		"Name": "Update Service", "ServiceEnabled": true, "Status": object{"State": "Enabled", "Health": "OK", "HealthRollup": "OK"},
		"FirmwareInventory": t.link(inventoryPath), "Actions": object{"Oem": oem},
		"Oem": object{"Hpe": object{"@odata.type": "#HpeUpdateService.v1_0_0.HpeUpdateService", "OnlineUpdatesSupported": true}},
	})
}

// updateAll is UpdateAll: one bundle for RMC, BMCs and partitions.
func (s *Server) updateAll(x *exchange, r *http.Request, _ Account) error {
	const action = "UpdateAll"
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	if err := known(action, o, "ImageURI", "Reinstall", "ExcludeNparFw"); err != nil {
		return err
	}
	uri := text(o, "ImageURI")
	if imageURL(uri) == nil {
		return bad("ActionParameterMissing", action, "ImageURI")
	}
	var targets []string
	s.mu.Lock()
	for _, f := range s.firmware {
		if !truth(o, "ExcludeNparFw") || !strings.HasPrefix(f.ID, "BIOS") {
			targets = append(targets, f.ID)
		}
	}
	s.mu.Unlock()
	return s.start(x, r, "Firmware update", func(ctx context.Context) error {
		c, err := s.pull(ctx, uri, "")
		if err != nil {
			return err
		}
		if err := s.verify(ctx, c); err != nil {
			return rmcError(err)
		}
		if !truth(o, "Reinstall") && s.installed(c, targets) {
			return nil
		}
		return rmcError(s.write(ctx, c, "Bmc", targets))
	})
}

// installed reports whether the targets have the version already.
func (s *Server) installed(c *content, targets []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.firmware {
		v := f.Version
		if f.Staged != "" {
			v = f.Staged
		}
		if slices.Contains(targets, f.ID) && slices.ContainsFunc(c.images, func(p imagePart) bool { return f.takes(p.meta) && p.Version != v }) {
			return false
		}
	}
	return len(c.images) > 0
}

// rmcError gives an error the name that an RMC gives it.
func rmcError(err error) error {
	m, ok := err.(*message)
	if !ok {
		return err
	}
	switch m.id {
	case "UpdateInvalidFile", "MinimumFirmwareVersionRequirementNotMet":
		return &message{status: http.StatusBadRequest, id: "FirmwareIncompatibleError"}
	case "UpdateSignatureValidationFailed", "FirmwareFlashFailed":
		return &message{status: http.StatusBadRequest, id: "FirmwareUpdateInternalError"}
	}
	return err
}
