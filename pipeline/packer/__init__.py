"""A Packer template to a definition: read, evaluated without running anything, and turned as far as goldsmith can.

limits        how much of a stranger's template is read and computed
hcl           the text of HCL2: parsed, and its expressions evaluated
text_template the `${...}` and `%{...}` in a text
functions     the functions that expressions call
file_functions  those that read files of the template's folder
template      the blocks of a template: variables, locals, sources, builds
legacy        the older JSON form: builders, provisioners
sources       a source to the definition's source, disk and machine
provisioners  a provisioner to steps
imported      the files of the result
"""
