/** A side bar that covers a narrow page: a native dialog, so focus, Escape and the rest are the browser's. */

import { type ReactNode, useEffect, useRef } from "react";
import { Icon } from "./Icon";

interface DrawerProps {
  open: boolean;
  onClose: () => void;
  label: string;
  children: ReactNode;
}

export function Drawer({ open, onClose, label, children }: DrawerProps): ReactNode {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const element = dialog.current;
    if (open && !element?.open) element?.showModal();
    else if (!open && element?.open) element.close();
  }, [open]);
  return (
    <dialog
      ref={dialog}
      className="drawer"
      aria-label={label}
      onCancel={onClose}
      // This is told a little later than it happens; by then it may be open again.
      onClose={() => dialog.current?.open || onClose()}
      // A press outside lands on the dialog itself, which its content covers everywhere else.
      onClick={(event) => event.target === event.currentTarget && onClose()}
    >
      <div className="drawer-content">
        <button type="button" className="quiet drawer-close" onClick={onClose} aria-label="Close the list of chats">
          <Icon name="close" />
        </button>
        {open ? children : null}
      </div>
    </dialog>
  );
}
