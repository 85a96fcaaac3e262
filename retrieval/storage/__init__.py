"""Files and folders that are whole or not there, with one writer, and owned by a mark of ours."""
