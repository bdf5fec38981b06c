# Tab completion in bash for python -m runners.evaluate and the other commands, in the project's folder:
#   source scripts/completion.bash
# Hydra's own completion does not know python -m, and starts Python for every Tab. This one only lists files.

_purifybench() {
    local line=${COMP_LINE:0:COMP_POINT} module word group listed names
    COMPREPLY=()
    [[ $line =~ -m\ +((runners|scripts)\.([a-z_]+))\ +(.*\ )?([^ ]*)$ ]] || return
    module=${BASH_REMATCH[3]} word=${BASH_REMATCH[5]}
    if [[ $word == *=* ]]; then
        group=${word%%=*} word=${word#*=}
        listed=${word%"${word##*,}"} # the values before the last comma of a list
        names=$(cd "configs/${group%%@*}" 2> /dev/null && find . -name '*.yaml' | sed 's|^\./||; s|\.yaml$||')
        mapfile -t COMPREPLY < <(compgen -P "$listed" -W "$names" -- "${word##*,}")
    else
        [[ -f configs/$module.yaml ]] || module=evaluate
        names=$(sed -n -E 's|^([a-z_]+): .*|\1=|p; s|^  - ([a-z_/]+): .*|\1=|p' "configs/$module.yaml" configs/settings.yaml)
        mapfile -t COMPREPLY < <(compgen -W "$names" -- "$word")
    fi
}
complete -o nospace -o bashdefault -o default -F _purifybench python python3
